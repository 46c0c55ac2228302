#!lua flags=allow-oom,allow-cross-slot-keys
--- mark_move: Store the phase of an account's move, if it is still as expected.
--- expected: the phase that was read, '' for none. phase: the new one, '' to end the move. cell: the other cell. hooks: all of the account.
--- @args account expected phase id cell
--- @varargs hooks
--- @returns 1; 0 if another process was first
--- @include lib/moves

local hash = key.move .. account
if (call('HGET', hash, 'phase') or '') ~= expected then return 0 end
for _, hook in ipairs(hooks) do
  if phase ~= '' then call('SET', key.move_hook .. hook, phase) else call('DEL', key.move_hook .. hook) end
  if phase ~= 'closed' then call('DEL', key.move_arrivals .. hook) end
end
if phase == '' then
  call('DEL', hash)
  return 1
end
if call('HGET', hash, 'id') ~= id then call('HSET', hash, 'begun_at', now) end
call('HSET', hash, 'phase', phase, 'id', id, 'cell', cell, 'hooks', table.concat(hooks, ' '))
return 1
