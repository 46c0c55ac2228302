#!lua flags=allow-oom,allow-cross-slot-keys
--- recheck_outdated: Let the next run of a visit read it from the API, unless the server has the API's last answer.
--- remote: that answer, '-' if the API has no visit.
--- @varargs visits: task remote
--- @include lib/tasks
--- @include lib/values

for _, visit in ipairs(visits) do
  local hash = key.task .. visit.task
  local values = load_values(hash)
  if next(values) and (values.remote or '-') ~= visit.remote then call('HSETNX', hash, 'recheck', '') end
end
