--- The aliases of a visit. Some tools give a visit a new id when it is rescheduled. The hash of each id then has the fields
--- `previous:<task>` and `next:<task>`, and its own changes. The state of the visit is that of its primary id (state.lua).
--- @include lib/limits
--- @include lib/tasks

local function add_link(alias, field)
  local direction, task = string.match(field, '^(%a+):(.*)$')
  if direction == 'previous' then table.insert(alias.previous, task) end
  if direction == 'next' then table.insert(alias.next, task) end
end

local function load_alias(task)
  local alias = {task = task, depth = 0, hash = call('HGETALL', key.task .. task), state = false, previous = {}, next = {}}
  local fields = alias.hash
  for f = 1, #fields, 2 do
    local name = fields[f]
    if name == 'state' then
      alias.state = fields[f + 1]
    elseif name == 'in_flight_until' then
      alias.in_flight_until = tonumber(fields[f + 1])
    elseif name == 'linked' then
      for each = 1, #fields, 2 do add_link(alias, fields[each]) end
    end
  end
  return alias
end

-- Read all aliases of these tasks, each with `load`, up to the limits.
-- -> aliases by task, the number of ids, the number of their fields; beyond a limit: the first ids, and the exceeding numbers
local function walk(tasks, load, max_aliases, max_fields)
  local aliases, id_count, field_count, i = {}, 0, 0, 1
  while i <= #tasks do
    local task = tasks[i]
    if not aliases[task] then
      id_count, field_count = id_count + 1, field_count + call('HLEN', key.task .. task)
      if id_count > 1 and (id_count > max_aliases or field_count > max_fields) then return aliases, id_count, field_count end
      aliases[task] = load(task)
      for _, previous in ipairs(aliases[task].previous) do table.insert(tasks, previous) end
      for _, successor in ipairs(aliases[task].next) do table.insert(tasks, successor) end
    end
    i = i + 1
  end
  return aliases, id_count, field_count
end

-- The first level of the breadth-first order: the ids without a predecessor, or the smallest id if all are in a cycle.
local function first_ids(aliases)
  local first, all = {}, {}
  for task, alias in pairs(aliases) do
    table.insert(all, task)
    if #alias.previous == 0 then table.insert(first, task) end
    for _, previous in ipairs(alias.previous) do
      if aliases[previous] then table.insert(aliases[previous].next, task) end
    end
  end
  table.sort(first)
  table.sort(all)
  return #first > 0 and first or {all[1]}
end

-- All ids of a visit in the order of renaming: breadth first from the ids without a predecessor; `depth` is the level.
-- Each level is sorted, so that the order and the primary id do not depend on the order of arrival.
-- -> list of aliases, and the exceeded limit if some are missing
local function load_aliases(task)
  local aliases, id_count, field_count = walk({task}, load_alias, MAX_ALIASES_READ, MAX_FIELDS_READ)
  local ordered, level, depth = {}, first_ids(aliases), 0
  while #level > 0 do
    local next_level = {}
    for _, name in ipairs(level) do
      local alias = aliases[name]
      if alias then
        alias.depth = depth
        table.insert(ordered, alias)
        for _, successor in ipairs(alias.next) do table.insert(next_level, successor) end
        aliases[name] = nil
      end
    end
    table.sort(next_level)
    level, depth = next_level, depth + 1
  end
  return ordered, id_count > MAX_ALIASES_READ and 'too_many_reschedules' or field_count > MAX_FIELDS_READ and 'too_many_changes'
end

local function encode_aliases(aliases)
  local reply = {}
  for i, alias in ipairs(aliases) do reply[i] = {alias.task, alias.depth, alias.hash} end
  return reply
end
