#!lua flags=allow-oom,allow-cross-slot-keys
--- recheck_outdated: Let the next run of a visit read it from the API, unless the server has the API's last answer.
--- remote: that answer, '-' if the API has no visit.
--- @varargs visits: task remote
--- @include lib/tasks

for _, visit in ipairs(visits) do
  local hash = key.task .. visit.task
  local is_outdated = (get_fields(visit.task, 'remote') or '-') ~= visit.remote
  if is_outdated and call('EXISTS', hash) == 1 then call('HSETNX', hash, 'recheck', '') end
end
