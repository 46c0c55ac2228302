#!lua flags=allow-oom,allow-cross-slot-keys
--- lease: Give a task, with all ids of its visit, to one worker until a time.
--- circuit: the account whose circuit may be open, or ''. paced: 1 if the calls of the account are paced: while others of
--- its tasks are held, so is this one.
--- @args expected_ms task token lease_ms circuit paced
--- @returns {'leased', context, [[task, depth, hash]…]} | {'busy'} | {'held'} | {'parked'} | {'nothing'}
--- @include lib/clock_check
--- @include lib/queue
--- @include lib/aliases
--- @include lib/attempts
--- @include lib/circuit

-- The newest delivery of a visit, and the names that its sender gave to the request.
local function request_context(aliases)
  local newest = delivery_of(task) or ''
  for _, alias in ipairs(aliases) do
    for f = 1, #alias.hash, 2 do
      local delivery = string.match(alias.hash[f], '^change:(.*)%.%d+$')
      if delivery and delivery > newest then newest = delivery end
    end
  end
  local info = string.match(call('GETRANGE', key.delivery .. newest, 0, 2047), '^[^\n]*')
  local function field(name) return string.match(info, '"' .. name .. '":"([^"]*)"') or '' end
  return {newest, field('request_id'), field('traceparent')}
end

-- A task that was released to be the probe, or to take a place in the queue for calls, goes although the circuit is open.
local function is_held_back()
  local was_released = call('HDEL', key.task .. task, 'released') == 1
  if circuit ~= '' and call('EXISTS', key.circuit .. circuit) == 1
    and call('HGET', key.circuit .. circuit, 'probe') ~= task then return true end
  return paced == '1' and not was_released and call('EXISTS', state_key(task, 'held')) == 1
end

local jumped = clock_error(expected_ms)
if jumped then return jumped end
local aliases, bound = load_aliases(task)
local is_due = false
for _, alias in ipairs(aliases) do
  if is_leased(alias.task, alias.state) then return {'busy'} end
  if alias.state == 'queued' or alias.state == 'running' then is_due = true end
end
if bound then
  local state = get_fields(task, 'state')
  if state ~= 'queued' and state ~= 'running' then return {'nothing'} end
  park(task, bound, 'it is more than a run can read')
  return {'parked'}
end
if not is_due then return {'nothing'} end
if is_held_back() then
  hold(task)
  return {'held'}
end
local reply = {'leased', request_context(aliases), encode_aliases(aliases)}
for _, alias in ipairs(aliases) do
  set_state(alias.task, 'running', now + lease_ms)
  call('HSET', key.task .. alias.task, 'lease', token)
  call('PERSIST', key.task .. alias.task)
end
call('HSET', key.task .. aliases[1].task, 'attempted', 1)
return reply
