--- A task: its name, the fields of its hash, and the sorted set of tasks in its state.
--- @field state queued, running, waiting, held, parked or discarded; none once it is done
--- @field changes how many changes arrived
--- @field applied how many of them the last run that ended in done had seen
--- @field change:<delivery>.<index> number and change, in the order of arrival
--- @field discarded:<delivery>.<index> a change that an operator discarded
--- @field compacted how many changes were deleted because they could never win again
--- @field linked 1 if the visit has several ids
--- @field previous:<task> an id that the tool has replaced by this one
--- @field next:<task> an id that has replaced this one
--- @field job the id of its newest job
--- @field jobs how many jobs it has had
--- @field queue replays, while only a replay has queued it
--- @field lease the token of the worker that may write the visit; its end is the score in `bell:running`
--- @field expired_leases how many leases expired since a run last ended
--- @field released 1 if it may go although others of its account are held
--- @field probes how often it was the probe of an open circuit
--- @field token_rejections how often the API rejected the token for it alone
--- @field pending_since when it was last given something to do
--- @field retry_at when it is due, while it is waiting
--- @field repeated_at when it was, or will be, queued because the same was sent again
--- @field reason why it is waiting, held or parked
--- @field failed_attempts how many attempts failed in a row
--- @field failed_since when the first of them failed
--- @field attempts how many attempts were made
--- @field attempt:<number> one of the newest 100 attempts, as JSON
--- @field attempted 1 once a worker has leased it
--- @field remote the API's last answer for the visit, as JSON
--- @field recheck set while the API must be asked first; the API's ids of duplicate visits
--- @field audited the audit that last saw it, and the API's id
--- @field targets the visits that an event concerns
--- @field replaces_changes 1 if the changes of an event replace those that it meant before
--- @field last_event_at when the event last arrived: older records are outdated
--- @field erased_at when personal data was erased
--- @include lib/clock

local function get_fields(task, ...) return unpack(call('HMGET', key.task .. task, ...)) end

local function kind_of(task) return string.match(task, '^%a+') end
local function account_of(task) return string.match(task, '^%a+:([^/]*)/') end

local function state_key(task, state)
  return state == 'held' and key.held .. account_of(task) or key.state .. state
end

local function remove_from_state(task, state)
  if state then call('ZREM', state_key(task, state), task) end
  if state == 'held' then call('ZREM', key.held_by_age .. account_of(task), task) end
end

-- Will a run that is already scheduled see a new change? A task in backoff will. A task that waits for missing facts will
-- not: the new change may supply them.
local function is_scheduled(state, failed_since)
  return state == 'queued' or state == 'running' or state == 'held' or (state == 'waiting' and failed_since)
end
