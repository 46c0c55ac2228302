--- A task: its id, the fields of its hash, and the sorted set of tasks in its state.
--- @field state queued, running, waiting, held, parked or discarded; absent when the task is done
--- @field changes how many changes arrived
--- @field applied how many of them the last successful run read
--- @field change:<delivery>.<index> number and change, in the order of arrival
--- @field <name>+<number> how a value of more than 64 bytes continues: of a change, an attempt or `remote`
--- @field discarded:<delivery>.<index> a change that an operator discarded
--- @field compacted how many changes were deleted because they could never win
--- @field linked 1 if the visit has several ids
--- @field previous:<task> an id that the tool replaced by this one
--- @field next:<task> an id by which the tool replaced this one
--- @field jobs the number in the id of the newest job; absent for the first job of a visit
--- @field queue `replays` while only a replay has queued the task
--- @field operation the replay that requeued the task, until its outcome is known
--- @field lease the token of the run that may write the visit; its end is the score in `bell:state:running`
--- @field expired_leases how many leases expired since a run last ended
--- @field released 1 if the task may run although others of its account are held
--- @field probes how often the task was the probe of an open circuit
--- @field token_rejections how often the API rejected the token for this visit while it was no probe
--- @field pending_since since when the task is unfinished
--- @field retry_at when a waiting task is due
--- @field repeated_at when a repeat last queued the task, or will queue it
--- @field reason why the task is waiting or parked, or was held; the circuit has why it is held now
--- @field failed_attempts how many attempts failed in a row
--- @field failed_since when the first of them failed
--- @field in_flight_until until when a call of the last run may still change the visit in the API
--- @field attempts how many attempts followed the first; absent if none did
--- @field attempt:<number> one of the newest 100 attempts, as a JSON list
--- @field attempted 1 if a run of a visit without `remote` has sent a create, or has begun and not ended
--- @field remote the API's last answer for the visit, as JSON
--- @field start when the visit starts, unless `remote` has that time, to the minute
--- @field recheck present if the next run reads the visit from the API first; contains the API's ids of duplicate visits
--- @field audited the last audit that found the visit in the API, and the API's id
--- @field targets the visits that an event changed
--- @field replaces_changes 1 if the next translation of an event replaces the changes of the previous one
--- @field last_event_at when the event last arrived; records that were fetched before are outdated
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

-- Is a run scheduled that will see a new change? A task that waits after a failed attempt keeps its time. A task that waits for
-- missing facts does not: the new change may contain them.
local function is_scheduled(state, failed_since)
  return state == 'queued' or state == 'running' or state == 'held' or (state == 'waiting' and failed_since)
end
