#!lua flags=allow-oom,allow-cross-slot-keys
--- lease: Lease a task, with all ids of its visit.
--- circuit: the account whose circuit is checked, or ''. paced: 1 if the account has a rate limit: then the task is held while
--- other tasks of the account are held.
--- @args expected_ms task token lease_ms circuit paced
--- @returns {'leased', context, [[task, depth, hash]…]} | {'busy'} | {'held'} | {'waiting'} | {'parked'} | {'nothing'}
--- @include lib/clock_check
--- @include lib/state
--- @include lib/aliases
--- @include lib/moves
--- @include lib/circuit_reasons

-- -> the newest delivery of the visit, and the X-Request-ID and traceparent of its sender
local function request_context(aliases)
  local newest = delivery_of(task) or ''
  for _, alias in ipairs(aliases) do
    for f = 1, #alias.hash, 2 do
      local delivery = string.match(alias.hash[f], '^change:(.*)%.%d+$')
      if delivery and string.sub(delivery, 2) > string.sub(newest, 2) then newest = delivery end  -- after the kind: the time
    end
  end
  local info = string.match(call('GETRANGE', delivery_key(newest), 0, 2047), '^[^\n]*')
  return {newest, head_field(info, 'r') or '', head_field(info, 'traceparent') or ''}
end

-- Why the visit must not run now, or nil: a key of reasons.py. A released visit runs although others of its account are held,
-- and the probe although the circuit is open.
local function reason_to_hold(aliases)
  local was_released = call('HDEL', key.task .. task, 'released') == 1
  if circuit ~= '' then
    local kind, probe = unpack(call('HMGET', key.circuit .. circuit, 'kind', 'probe'))
    local is_probe = not kind
    for _, alias in ipairs(aliases) do is_probe = is_probe or alias.task == probe end
    if not is_probe then return CIRCUIT_REASONS[kind] end
    -- complete.lua knows the probe by its primary id.
    if kind and probe ~= aliases[1].task then call('HSET', key.circuit .. circuit, 'probe', aliases[1].task) end
  end
  if paced == '1' and not was_released and call('EXISTS', state_key(task, 'held')) == 1 then return 'rate_limited_locally' end
end

local function grant(aliases)
  local reply = {'leased', request_context(aliases), encode_aliases(aliases)}
  for _, alias in ipairs(aliases) do
    set_state(alias.task, 'running', now + lease_ms)
    call('HSET', key.task .. alias.task, 'lease', token)
    call('PERSIST', key.task .. alias.task)
  end
  note_attempt(aliases[1].task)
  return reply
end

-- No in_flight_until is further away, unless the clock went back.
local MAX_IN_FLIGHT_MS = 60000

local jumped = clock_error(expected_ms)
if jumped then return jumped end
local aliases, limit = load_aliases(task)
local is_due, in_flight_until = false, 0
for _, alias in ipairs(aliases) do
  if is_leased(alias.task, alias.state) then return {'busy'} end
  if alias.state == 'queued' or alias.state == 'running' then is_due = true end
  if alias.in_flight_until then in_flight_until = math.max(in_flight_until, alias.in_flight_until) end
end
if not is_due and not limit then return {'nothing'} end
local is_in_flight = in_flight_until > now and in_flight_until < now + MAX_IN_FLIGHT_MS
local reason = not limit and (is_moving(task) and 'account_moves' or reason_to_hold(aliases))
if not limit and not reason and not is_in_flight then return grant(aliases) end

-- Redis creates the functions of a script for each call, which takes as long as commands do: most calls end above.
--- @include lib/parking
--- @include lib/circuit

if limit then
  local state = get_fields(task, 'state')
  if state ~= 'queued' and state ~= 'running' then return {'nothing'} end
  park_without_run(task, aliases, limit, 'the visit exceeds the limits of a run')
  return {'parked'}
end

local primary = aliases[1].task
for i = 2, #aliases do clear_state(aliases[i].task) end
call('HSETNX', key.task .. primary, 'pending_since', now)

-- A visit is held. An event, which belongs to no account and runs unless a move stops it, waits.
local MOVE_WAIT_MS = 5000
if reason and kind_of(task) == 'visit' then
  hold(aliases, reason)
  return {'held'}
end
wait(primary, reason and now + MOVE_WAIT_MS or in_flight_until, reason or 'write_in_progress')
return {'waiting'}
