#!lua flags=allow-oom,allow-cross-slot-keys
--- discard: Give up what has not been applied to a visit, of one delivery or of all.
--- delivery: or '' for all. change_count: how many changes all its ids had when the operator looked, or ''.
--- @args task keep_ms delivery change_count
--- @returns how many changes, at least 1 if nothing is left to do; -1 while it is running, -2 if changes arrived since
--- @include lib/state
--- @include lib/aliases

-- -> how many changes were discarded, how many are left
local function discard_changes(task)
  local hash, fields, discarded, left = key.task .. task, call('HGETALL', key.task .. task), 0, 0
  local applied = tonumber(get_fields(task, 'applied') or 0)
  for f = 1, #fields, 2 do
    local origin, number = string.match(fields[f], '^change:(.*)$'), tonumber(string.match(fields[f + 1], '^%d+'))
    if origin and number > applied then
      if delivery == '' or string.match(origin, '^(.*)%.%d+$') == delivery then
        call('HDEL', hash, fields[f])
        call('HSET', hash, 'discarded:' .. origin, fields[f + 1])
        discarded = discarded + 1
      else
        left = left + 1
      end
    end
  end
  return discarded, left
end

local aliases, is_unfinished, changes = load_aliases(task), false, 0
for _, alias in ipairs(aliases) do
  if alias.state == 'running' then return -1 end
  is_unfinished = is_unfinished or (alias.state and alias.state ~= 'discarded')
  changes = changes + (get_fields(alias.task, 'changes') or 0)
end
if change_count ~= '' and changes ~= tonumber(change_count) then return -2 end
if not is_unfinished then return 0 end
local discarded, left = 0, 0
for _, alias in ipairs(aliases) do
  local of_alias, left_of_alias = discard_changes(alias.task)
  discarded, left = discarded + of_alias, left + left_of_alias
end
if left > 0 then return discarded end
for _, alias in ipairs(aliases) do
  call('HSET', key.task .. alias.task, 'applied', get_fields(alias.task, 'changes') or 0)
  finish(alias.task, keep_ms)
end
set_state(aliases[1].task, 'discarded', now)
count_finished(task, 'discarded')
call('ZREMRANGEBYSCORE', key.discarded, '-inf', now - keep_ms)
return math.max(discarded, 1)
