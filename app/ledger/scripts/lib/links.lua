--- The links between the ids of a visit, without its changes.
--- @include lib/aliases

local function load_links(task)
  local alias = {task = task, previous = {}, next = {}}
  if call('HEXISTS', key.task .. task, 'linked') == 1 then
    for _, field in ipairs(call('HKEYS', key.task .. task)) do add_link(alias, field) end
  end
  return alias
end

-- Every alias without its changes, by task.
local function walk_links(task) return (walk({task}, load_links, MAX_ALIASES_READ, MAX_FIELDS_READ)) end

local function primary_of(aliases) return first_ids(aliases)[1] end

-- The aliases of a visit must not expire while the visit is unfinished.
local function persist(aliases)
  for name in pairs(aliases) do call('PERSIST', key.task .. name) end
end

local function link_ids(task, previous)
  if task == previous then return end
  call('HSET', key.task .. task, 'previous:' .. previous, '', 'linked', 1)
  call('HSET', key.task .. previous, 'next:' .. task, '', 'linked', 1)
  call('HINCRBY', key.task .. previous, 'changes', 1)
end
