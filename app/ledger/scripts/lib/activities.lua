--- The index of the activity log by visit and delivery.
--- @include lib/clock

local MAX_ACTIVITIES, ACTIVITIES_TTL_S = 100, 90 * 86400

-- activity: its id in the log; '' if no operator acted. tasks: the visits, and the deliveries as tasks of their events.
local function index_activity(activity, tasks)
  if activity == '' then return end
  for _, task in ipairs(tasks) do
    local index = key.activities .. task
    call('ZADD', index, string.match(activity, '^%d+'), activity)
    call('ZREMRANGEBYRANK', index, 0, -MAX_ACTIVITIES - 1)
    call('EXPIRE', index, ACTIVITIES_TTL_S)
  end
end
