#!lua flags=allow-oom,allow-cross-slot-keys
--- discard: Discard the changes of a visit that were not applied.
--- delivery: only the changes of this delivery; '' for all. change_count: how many changes all ids had when the operator decided;
--- '' to skip the comparison. activity, operation: of the operator, or ''. affected: visits and deliveries
--- @args task keep_ms delivery change_count activity operation
--- @varargs affected
--- @returns how many changes; at least 1 if this ended the task; -1 while it is running or its account moves, -2 if change_count differs
--- @include lib/transitions
--- @include lib/values
--- @include lib/aliases
--- @include lib/activities
--- @include lib/operations
--- @include lib/moves

-- -> how many changes were discarded, how many remain
local function discard_changes(task)
  local hash, discarded, remaining = key.task .. task, 0, 0
  local values = load_values(hash)
  local applied = tonumber(values.applied or 0)
  for name, value in pairs(values) do
    local origin, number = string.match(name, '^change:(.*)$'), tonumber(string.match(value, '^%d+'))
    if origin and number > applied then
      if delivery == '' or string.match(origin, '^(.*)%.%d+$') == delivery then
        delete_value(hash, name)
        replace_value(hash, 'discarded:' .. origin, value)
        discarded = discarded + 1
      else
        remaining = remaining + 1
      end
    end
  end
  return discarded, remaining
end

if is_moving(task) then return -1 end
local aliases, is_unfinished, changes = load_aliases(task), false, 0
for _, alias in ipairs(aliases) do
  if alias.state == 'running' then return -1 end
  is_unfinished = is_unfinished or (alias.state and alias.state ~= 'discarded')
  changes = changes + (get_fields(alias.task, 'changes') or 0)
end
if change_count ~= '' and changes ~= tonumber(change_count) then return -2 end
if not is_unfinished then return 0 end
local discarded, remaining = 0, 0
for _, alias in ipairs(aliases) do
  local alias_discarded, alias_remaining = discard_changes(alias.task)
  discarded, remaining = discarded + alias_discarded, remaining + alias_remaining
end
if discarded > 0 or remaining == 0 then
  index_activity(activity, affected)
  if operation ~= '' then add_to_operation(operation, 'discarded', aliases[1].task) end
end
if remaining > 0 then return discarded end
for _, alias in ipairs(aliases) do
  call('HSET', key.task .. alias.task, 'applied', get_fields(alias.task, 'changes') or 0)
  finish(alias.task, keep_ms)
end
set_state(aliases[1].task, 'discarded', now)
for _, alias in ipairs(aliases) do
  local replay = get_fields(alias.task, 'operation')
  if replay then settle(replay, alias.task, aliases[1].task) end
end
count_finished(task, 'discarded')
call('ZREMRANGEBYSCORE', key.discarded, '-inf', now - keep_ms)
return math.max(discarded, 1)
