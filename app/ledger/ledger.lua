-- The ledger's steps, each atomic. ledger.py says what they mean; ARGV[1] names the step. The clock is the server's, in
-- ms: one for every process of every machine.
--
-- A *piece of work* is `visit:<account>/<external_id>` (make the API show it) or `event:<delivery>` (fetch what it points
-- at, translate it). Its hash `db:<work>` holds
--   n, done      how many changes landed, and how many of them the last settled run had seen
--   state        queued, running, waiting, held, parked, discarded; none when settled. Also a sorted set per state
--   c:<origin>   "<n> <change>", by the delivery that said it; x:<origin> one that an operator discarded
--   prev:*, next:*, kin  the ids before and after, where the tool renamed the visit; whether it has any
--   job, q       its job in arq's queue, and how many it had: an id is never used twice, so that arq's tidying up
--                after one run cannot take the next one with it
--   lane         `replay` while an operator's replay is all that it is queued for
--   lease        token of the worker that may write it; its end is the score in `db:running`
--   since, due, tries, failed_since, reason, a, a:<k>   its troubles: attempts are kept, the last hundred
--   probes       how often it went to see whether the gate may open; refused: how often its token was, when it was no probe
--   again        when it was last put to work because the same was sent again, or when it will be
--   rang         when an event last rang, itself or a repeat that may be another: a record read before is too old
--   api, tried   what the API last answered; whether a worker ever began on it
--   ask          an operator doubts that answer: the API is asked anew; also about the visits of these numbers of its own
--   landed       of an event: the visits that it spoke of; replaces: what it says next takes the place of what it said
--   seen         by which audit, under which number of the API's own
--   forgot       when somebody whose visit it was was forgotten
--   dropped      how many superseded changes were forgotten, so that a visit does not grow for ever
--   lost         how often its lease ran out since a run last came to an end
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local JOB_TTL_MS = 30 * 86400 * 1000
-- Jobs wait in lanes of their own, each with its own places in a worker: a tool whose records come slowly, or ten thousand
-- replays, stand in nobody's way.
local LANES = {visit = 'db:jobs', event = 'db:jobs:event', replay = 'db:jobs:replay'}

-- What a visit may grow to, over all of its ids; hash fields are changes for the most part. Beyond the first bounds nothing
-- more lands: an operator decides. Beyond the second ones, which only what was stored without bounds passes, no run begins.
local MOST_IDS, MOST_FIELDS = 200, 5000
local MOST_IDS_READ, MOST_FIELDS_READ = 1000, 20000

-- A step that gives a right comes as `grant` with the time (ms) that its process expects. Where the clock jumped, leases
-- seem to have ended that have not: nothing is given before their holders could renew them.
if ARGV[1] == 'grant' then
  if math.abs(now - ARGV[2]) > 2000 then return redis.error_reply('CLOCK jumped') end
  table.remove(ARGV, 1)
  table.remove(ARGV, 1)
end

local function set_of(work, state)
  if state == 'held' then return 'db:held:' .. string.match(work, '^%a+:([^/]*)/') end
  return 'db:' .. state
end

local function lane_of(work, lane)
  return LANES[lane or string.match(work, '^%a+')]
end

-- What is held, by how long it has had something to do.
local function ages_of(work) return 'db:ages:' .. string.match(work, '^%a+:([^/]*)/') end

local function leave(work, state)
  if state then call('ZREM', set_of(work, state), work) end
  if state == 'held' then call('ZREM', ages_of(work), work) end
end

-- A new job. Returns the fields that the caller writes into the hash; what had failed for good gets a fresh schedule.
-- after: its place behind others that are queued in the same ms.
local function queue(work, state, q, lane, after)
  if state == 'parked' then call('HDEL', 'db:' .. work, 'tries', 'failed_since') end
  local job = work .. '#' .. q
  local kind, subject = string.match(work, '^(%a+):(.*)$')
  local payload = '{"t":null,"f":"' .. kind .. '","a":["' .. subject .. '"],"k":{},"et":' .. string.format('%.0f', now) .. '}'
  call('SET', 'arq:job:' .. job, payload, 'PX', JOB_TTL_MS)
  call('ZADD', lane_of(work, lane), now + (after or 0), job)
  leave(work, state)
  call('ZADD', 'db:queued', now, work)
  return 'state', 'queued', 'job', job, 'q', q
end

-- Something new landed: is anybody going to look at it?
local function is_looked_at(state, failed_since)
  -- Waiting for facts, these may be the ones; waiting for the API, the next try takes them along.
  return state == 'queued' or state == 'running' or state == 'held' or (state == 'waiting' and failed_since)
end

-- A change of a visit. known: n, q, state, failed_since, since of its hash. -> whether it was put to work
local function put(work, name, change, known)
  local key, n, q, state, failed_since, since = 'db:' .. work, unpack(known, 1, 5)
  n = (n or 0) + 1
  if is_looked_at(state, failed_since) then
    call('HSET', key, 'n', n, name, n .. ' ' .. change)
  else
    call('HSET', key, 'n', n, name, n .. ' ' .. change, 'since', since or now, queue(work, state, (q or 0) + 1))
    if n > 1 then call('PERSIST', key) end
    return true
  end
end

-- A delivery as it arrived.
local function write(id, hook, record, keep_ms)
  call('SET', 'db:delivery:' .. id, record, 'PX', keep_ms)
  call('ZADD', 'db:deliveries:' .. hook, now, id)
  call('SADD', 'db:hooks', hook)
end

-- What a repeat is known by. Written last, so that a script that broke off is no reason to call the next try a repeat.
local function remember(seen, id, s) call('SET', seen, id, 'EX', s) end

-- The door's step in most cases: something new of one visit that hangs together with no other. What follows need not be
-- made for it, which would take as long as a few calls. What ARGV holds stands at steps.accept.
if ARGV[1] == 'accept' and ARGV[8] == '' and #ARGV == 13 and ARGV[13] == '' then
  local known = call('HMGET', 'db:' .. ARGV[11], 'n', 'q', 'state', 'failed_since', 'since', 'kin', 'lane')
  local has_room = tonumber(known[1] or 0) < MOST_FIELDS or call('HLEN', 'db:' .. ARGV[11]) < MOST_FIELDS
  if has_room and not known[6] and not known[7] and call('EXISTS', ARGV[4]) == 0 then
    write(ARGV[2], ARGV[3], ARGV[7], ARGV[6])
    put(ARGV[11], 'c:' .. ARGV[2] .. '.0', ARGV[12], known)
    remember(ARGV[4], ARGV[2], ARGV[5])
    return 1
  end
end

local function move(work, state, score)
  local key = 'db:' .. work
  leave(work, call('HGET', key, 'state'))
  local account = (state == 'held' or state == 'parked') and string.match(work, '^visit:([^/]*)/')
  -- Its token may leave the settings: what needs somebody is found by this set.
  if account then call('SADD', 'db:accounts', account) end
  call('ZADD', set_of(work, state), score, work)
  call('HSET', key, 'state', state)
end

-- The last time that work came to an end: while some is due and this stands still, something is wrong.
local function progress() call('SET', 'db:progress', now) end

local function settle(work, keep_ms)
  local key = 'db:' .. work
  progress()
  leave(work, call('HGET', key, 'state'))
  call('HDEL', key, 'state', 'lease', 'job', 'lane', 'since', 'due', 'tries', 'failed_since', 'reason', 'probes', 'refused', 'lost')
  call('PEXPIRE', key, keep_ms)
  local delivery = string.match(work, '^event:(.*)$')
  if delivery then call('PEXPIRE', 'db:delivery:' .. delivery, keep_ms) end
end

-- Sorts the names of links into the ids before and after.
local function note_link(member, name)
  local kind = string.sub(name, 1, 5)
  if kind == 'prev:' then table.insert(member[5], string.sub(name, 6)) end
  if kind == 'next:' then table.insert(member[6], string.sub(name, 6)) end
end

-- One id of a visit: {work, generation, hash, state, ids before, ids after}.
local function load(work)
  local member = {work, 0, call('HGETALL', 'db:' .. work), false, {}, {}}
  for f = 1, #member[3], 2 do
    note_link(member, member[3][f])
    if member[3][f] == 'state' then member[4] = member[3][f + 1] end
  end
  return member
end

-- The same without its hash.
local function load_links(work)
  local member = {work, 0, {}, false, {}, {}}
  if call('HEXISTS', 'db:' .. work, 'kin') == 1 then
    for _, name in ipairs(call('HKEYS', 'db:' .. work)) do note_link(member, name) end
  end
  return member
end

-- The ids that hang together with these, as `read` gives them, up to one of the bounds. -> by name, how many there are, how
-- many fields they have
local function walk(found, read, most_ids, most_fields)
  local members, ids, fields, i = {}, 0, 0, 1
  while i <= #found do
    local name = found[i]
    if not members[name] then
      ids, fields = ids + 1, fields + call('HLEN', 'db:' .. name)
      if ids > 1 and (ids > most_ids or fields > most_fields) then return members, ids, fields end
      members[name] = read(name)
      for side = 5, 6 do
        for _, other in ipairs(members[name][side]) do table.insert(found, other) end
      end
    end
    i = i + 1
  end
  return members, ids, fields
end

-- The whole of a visit that the tool renamed: all ids that hang together, each with how many came before it. The first is
-- one that none came before; should there be several, or should they go round in a circle, the least: a rule, not a matter
-- of arrival. -> members, and the reason if they are not all
local function family(work)
  local members, ids, fields = walk({work}, load, MOST_IDS_READ, MOST_FIELDS_READ)
  local first, all = {}, {}
  for name, member in pairs(members) do
    table.insert(all, name)
    if #member[5] == 0 then table.insert(first, name) end
    for _, before in ipairs(member[5]) do
      if members[before] then table.insert(members[before][6], name) end
    end
  end
  table.sort(first)
  table.sort(all)
  local ordered, generation = {}, #first > 0 and first or {all[1]}
  local depth = 0
  while #generation > 0 do
    local later = {}
    for _, name in ipairs(generation) do
      if members[name] then
        members[name][2] = depth
        table.insert(ordered, members[name])
        for _, after in ipairs(members[name][6]) do table.insert(later, after) end
        members[name] = nil
      end
    end
    table.sort(later)
    generation, depth = later, depth + 1
  end
  return ordered, ids > MOST_IDS_READ and 'too_many_reschedules' or fields > MOST_FIELDS_READ and 'too_many_changes'
end

-- While one id of a visit has something to do, none of the others is forgotten.
local function keep(work)
  for name in pairs((walk({work}, load_links, MOST_IDS_READ, MOST_FIELDS_READ))) do call('PERSIST', 'db:' .. name) end
end

-- Whether a bound leaves no room for the changes in ARGV: its name, or nil. Asked before anything is written.
local function no_room(from)
  for i = from, #ARGV, 3 do
    local work, continues = ARGV[i], ARGV[i + 2]
    local found = continues ~= '' and {work, continues} or {work}
    local _, ids, fields = walk(found, load_links, MOST_IDS, MOST_FIELDS)
    if fields >= MOST_FIELDS then return 'too_many_changes' end
    local is_new_link = continues ~= '' and call('HEXISTS', 'db:' .. work, 'prev:' .. continues) == 0
    if is_new_link and ids > MOST_IDS then return 'too_many_reschedules' end
  end
end

local function enqueue(work, after)
  local key = 'db:' .. work
  local state, q, lane = unpack(call('HMGET', key, 'state', 'q', 'lane'))
  call('HSET', key, queue(work, state, (q or 0) + 1, lane, after))
  call('HSETNX', key, 'since', now)
  keep(work)
end

-- Somebody outside asks for it once more: it is done at once, and from then on once a minute, however often the same is sent.
local AGAIN_MS = 60000
local function enqueue_again(work)
  local key = 'db:' .. work
  local due = (tonumber(call('HGET', key, 'again')) or 0) + AGAIN_MS
  call('HSET', key, 'again', math.max(due, now))
  if due <= now then return enqueue(work) end
  call('HDEL', key, 'tries', 'failed_since')
  move(work, 'waiting', due)
  call('HSET', key, 'due', due, 'reason', 'repeated_within_a_minute')
  call('HSETNX', key, 'since', now)
  keep(work)
end

local function wake(work)
  local state, failed_since = unpack(call('HMGET', 'db:' .. work, 'state', 'failed_since'))
  if not is_looked_at(state, failed_since) then enqueue(work) end
end

local function link(work, continues)
  if work == continues then return end
  call('HSET', 'db:' .. work, 'prev:' .. continues, '')
  call('HSET', 'db:' .. continues, 'next:' .. work, '')
  call('HINCRBY', 'db:' .. continues, 'n', 1)
  call('HSET', 'db:' .. work, 'kin', 1)
  call('HSET', 'db:' .. continues, 'kin', 1)
end

-- Something landed on what was queued for a replay only: this is live work now.
local function make_live(work, job)
  call('HDEL', 'db:' .. work, 'lane')
  if job and call('ZREM', LANES.replay, job) == 1 then call('ZADD', lane_of(work), now, job) end
end

-- Changes stand in ARGV by threes: work, change, the work that it continues or ''. What an operator discarded stays so when
-- its delivery is translated anew.
local function land(origin, from, anew)
  for i = from, #ARGV, 3 do
    local work, key = ARGV[i], 'db:' .. ARGV[i]
    local known = call('HMGET', key, 'n', 'q', 'state', 'failed_since', 'since', 'kin', 'lane', 'job')
    local name = origin .. '.' .. (i - from) / 3
    if known[7] then make_live(work, known[8]) end
    local field = (anew and call('HEXISTS', key, 'x:' .. name) == 1 and 'x:' or 'c:') .. name
    local is_put_to_work = put(work, field, ARGV[i + 1], known)
    if ARGV[i + 2] ~= '' then link(work, ARGV[i + 2]) end
    if ARGV[i + 2] ~= '' or known[6] and is_put_to_work then keep(work) end
  end
end

-- The works among the changes in ARGV.
local function works_of(from)
  local names = {}
  for i = from, #ARGV, 3 do names[#names + 1] = ARGV[i] end
  return table.concat(names, ' ')
end

-- What a delivery said to these visits is taken back.
local function unsay(origin, works)
  local prefix = 'c:' .. origin .. '.'
  for work in string.gmatch(works, '%S+') do
    local key, found = 'db:' .. work, 0
    for _, name in ipairs(call('HKEYS', key)) do
      if string.sub(name, 1, #prefix) == prefix then found = found + call('HDEL', key, name) end
    end
    if found > 0 then
      call('HINCRBY', key, 'n', 1)
      wake(work)
    end
  end
end

-- A repeat of what had failed puts it back to work: under whichever of its ids, and whatever the event turned out to mean.
local function revive(work)
  for _, member in ipairs(family(work)) do
    if member[4] == 'parked' then enqueue_again(member[1]) end
  end
  for landed in string.gmatch(call('HGET', 'db:' .. work, 'landed') or '', '%S+') do revive(landed) end
end

local steps = {}

-- delivery, hook, seen key, its seconds, the delivery's ms, its record, event work: '' | queued | parked, the
-- reason, again: 1 where a repeat is fetched anew; changes. -> 1 or, for a repeat, the first delivery's id; {reason} where
-- a bound of a visit leaves no room, and nothing is written
function steps.accept()
  local id, hook, seen = ARGV[2], ARGV[3], ARGV[4]
  local first = call('GET', seen)
  if first then
    local record = call('GET', 'db:delivery:' .. first)
    local meta = record and cjson.decode(string.match(record, '^[^\n]*')) or {}
    for _, work in ipairs(meta.task_ids or {}) do
      if ARGV[10] == '1' then call('HSET', 'db:' .. work, 'rang', now) end
      revive(work)
      local state = call('HGET', 'db:' .. work, 'state')
      if ARGV[10] == '1' and not state then enqueue_again(work) end
      -- What is being fetched now may have been read before this rang: the end of the run sees that n has moved.
      if ARGV[10] == '1' and state == 'running' then call('HINCRBY', 'db:' .. work, 'n', 1) end
    end
    return first
  end
  local bound = no_room(11)
  if bound then return {bound} end
  write(id, hook, ARGV[7], ARGV[6])
  if ARGV[8] ~= '' then call('PERSIST', 'db:delivery:' .. id) end  -- until its event is settled
  if ARGV[8] ~= '' then
    local work = 'event:' .. id
    call('HSET', 'db:' .. work, 'n', 1, 'rang', now)
    if #ARGV > 10 then call('HSET', 'db:' .. work, 'landed', works_of(11)) end
    if ARGV[8] == 'queued' then
      enqueue(work)
    else
      move(work, 'parked', now)
      call('HSET', 'db:' .. work, 'reason', ARGV[9], 'since', now)
    end
  end
  land(id, 11)
  remember(seen, id, ARGV[5])
  return 1
end

if ARGV[1] == 'accept' then return steps.accept() end

local function note_attempt(key, attempt)
  local k = call('HINCRBY', key, 'a', 1)
  call('HSET', key, 'a:' .. k, attempt)
  -- For whoever watches. A server that forbids it loses nothing else.
  redis.pcall('PUBLISH', 'db:attempts', string.sub(key, 4) .. ' ' .. attempt)
  if k > 100 then call('HDEL', key, 'a:' .. (k - 100)) end
end

local function shown(members)
  local reply = {}
  for i, member in ipairs(members) do reply[i] = {member[1], member[2], member[3]} end
  return reply
end

-- When the visit is, as a number that sorts: what the newest of its changes says. Only an order in which to go on, so
-- nothing is merged for it. What has no time goes first: it may be a cancel.
local function starts(work)
  local hash, newest, at = call('HGETALL', 'db:' .. work), -1, ''
  for f = 1, #hash, 2 do
    if string.sub(hash[f], 1, 2) == 'c:' then
      local change = cjson.decode(string.match(hash[f + 1], '^%d+ (.*)$'))
      local said = change.f.time_completed
      if type(said) ~= 'string' then said = change.f.time_scheduled end
      if type(said) == 'string' and change.o > newest then newest, at = change.o, said end
    end
  end
  return tonumber(string.sub((string.gsub(at, '%D', '')), 1, 14)) or 0
end

-- Held work has its place by when its visit starts, behind all that never failed; and, since nobody must be overtaken for
-- ever, another one by how long it has had something to do.
local function hold(work)
  local tries, since = unpack(call('HMGET', 'db:' .. work, 'tries', 'since'))
  move(work, 'held', starts(work) + (tries and 1e14 or 0))
  call('ZADD', ages_of(work), since or now, work)
end

-- The newest delivery that spoke of it, and the names that its sender gave to the request.
local function trace(work, members)
  local newest = string.match(work, '^event:(.*)$') or ''
  for _, member in ipairs(members) do
    for f = 1, #member[3], 2 do
      local origin = string.match(member[3][f], '^c:(.*)%.%d+$')
      if origin and origin > newest then newest = origin end
    end
  end
  local meta = string.match(call('GETRANGE', 'db:delivery:' .. newest, 0, 2047), '^[^\n]*')
  local function kept(name) return string.match(meta, '"' .. name .. '":"([^"]*)"') or '' end
  return {newest, kept('request_id'), kept('traceparent')}
end

-- An operator's turn, without a run. said: a sentence.
local function park(work, reason, said)
  local key = 'db:' .. work
  progress()
  move(work, 'parked', now)
  call('HDEL', key, 'lease', 'job', 'due', 'lane', 'probes', 'refused', 'lost')
  call('HSET', key, 'reason', reason)
  call('HSETNX', key, 'since', now)
  note_attempt(key, string.format('{"started_at_ms":%.0f,"took_ms":0,"outcome":"parked","calls":[],"response_text":"%s"}', now, said))
  call('HINCRBY', 'db:counts', 'doorbell_tasks_finished_total|' .. string.match(work, '^%a+') .. '|parked', 1)
end

local function is_taken(member)
  return member[4] == 'running' and tonumber(call('ZSCORE', 'db:running', member[1]) or 0) > now
end

-- work, token, lease ms, gate or '', 1 where calls are paced -> {'yours', trace, {[work, generation, hash]…}} | {'busy'} |
-- {'held'} | {'parked'} | {'nothing'}
function steps.begin()
  local work, token, gate = ARGV[2], ARGV[3], ARGV[5]
  local members, bound = family(work)
  local to_do = false
  for _, member in ipairs(members) do
    if is_taken(member) then return {'busy'} end
    if member[4] == 'queued' or member[4] == 'running' then to_do = true end
  end
  if bound then
    local state = call('HGET', 'db:' .. work, 'state')
    if state ~= 'queued' and state ~= 'running' then return {'nothing'} end
    park(work, bound, 'it is more than a run can read')
    return {'parked'}
  end
  if not to_do then return {'nothing'} end
  local is_let_out = call('HDEL', 'db:' .. work, 'let_out') == 1
  if gate ~= '' and call('EXISTS', gate) == 1 and call('HGET', gate, 'probe') ~= work
    or ARGV[6] == '1' and not is_let_out and call('EXISTS', set_of(work, 'held')) == 1 then
    hold(work)
    return {'held'}
  end
  local reply = {'yours', trace(work, members), shown(members)}
  for _, member in ipairs(members) do
    move(member[1], 'running', now + tonumber(ARGV[4]))
    call('HSET', 'db:' .. member[1], 'lease', token)
    call('PERSIST', 'db:' .. member[1])
  end
  call('HSET', 'db:' .. members[1][1], 'tried', 1)
  return reply
end

-- lease ms, token, work…: a worker says what it has begun on, should this server have lost that with the end of its file,
-- or another clock. What another one has begun on since is left alone.
function steps.resume()
  for i = 4, #ARGV do
    local key = 'db:' .. ARGV[i]
    local state, lease = unpack(call('HMGET', key, 'state', 'lease'))
    local is_taken = state == 'running' and tonumber(call('ZSCORE', 'db:running', ARGV[i])) > now
    if lease == ARGV[3] and state == 'running' then
      call('ZADD', 'db:running', 'XX', now + tonumber(ARGV[2]), ARGV[i])
    elseif lease ~= ARGV[3] and not is_taken then
      move(ARGV[i], 'running', now + tonumber(ARGV[2]))
      call('HSET', key, 'lease', ARGV[3])
      if i == 4 then call('HSET', key, 'tried', 1) end
      call('PERSIST', key)
    end
  end
end

-- lease ms, token, work…: the server's clock jumped, and the leases that a worker still holds end so much later by it.
function steps.renew()
  for i = 4, #ARGV do
    local state, lease = unpack(call('HMGET', 'db:' .. ARGV[i], 'state', 'lease'))
    if state == 'running' and lease == ARGV[3] then call('ZADD', 'db:running', now + tonumber(ARGV[2]), ARGV[i]) end
  end
end

local function note_answer(answers, answer)
  call('LPUSH', answers, answer)
  call('LTRIM', answers, 0, 19)
  call('EXPIRE', answers, 60)
end

-- Is the API down, or does it only fail this visit? Of the newest twenty answers, most must be first failures of different
-- visits, `enough` of them at least. Where another visit succeeded during this run, or within the last second, the trouble
-- is this visit's own, as it is where it failed before.
local function is_outage(answers, enough, work, took_ms)
  if call('HEXISTS', 'db:' .. work, 'tries') == 1 then return false end
  local failed, succeeded = 1, 0
  for _, answer in ipairs(call('LRANGE', answers, 0, 18)) do
    local at = tonumber(string.match(answer, '^%+(%d+)$'))
    if answer == work or at and at <= now and now - at < math.max(took_ms, 1000) then return false end
    if at then succeeded = succeeded + 1 else failed = failed + 1 end
  end
  note_answer(answers, work)
  return failed >= enough and succeeded * 4 <= failed
end

local function tool_of(work) return string.match(work, '/([^-]*)') end

-- What one answer says about everybody's way to the API. A success opens the gate that trouble closed, but not the one
-- that the API closed itself by naming a time. While the API is down, only a probe's failure says anything new; each makes
-- the wait for the next probe twice as long.
local function judge(gate, why, wait_ms, enough, work, took_ms)
  local shut, probe = unpack(call('HMGET', gate, 'why', 'probe'))
  local answers = string.gsub(gate, '^db:gate', 'db:answers')
  if shut == 'paused' then return end
  if why == 'ok' then
    note_answer(answers, '+' .. string.format('%.0f', now))
    if shut and shut ~= 'rate_limited' then call('DEL', gate) end
    return
  end
  if why == 'down' then
    if shut and probe ~= work or not shut and not is_outage(answers, enough, work, took_ms) then return end
  end
  call('SADD', 'db:gates', gate)
  call('HSETNX', gate, 'since', now)
  if why == 'down' and shut then call('HSET', gate, 'failed', tool_of(work)) end
  local fails = call('HINCRBY', gate, 'fails', 1)
  if why == 'down' then wait_ms = math.min(wait_ms, 1000 * 2 ^ (fails - 1)) end
  call('HSET', gate, 'why', why, 'until', now + wait_ms)
  call('HDEL', gate, 'probe')
end

-- A visit that is refused each time the others' way was free again is its own trouble: an operator's turn, before it shuts
-- the gate for everybody once more.
local function is_refused_alone(gate, work)
  return call('HGET', gate, 'probe') ~= work and call('HINCRBY', 'db:' .. work, 'refused', 1) >= 10
end

-- token, outcome, due in ms, reason, attempt or '', keep ms, gate or '', why or '', wait ms, enough, tries or '', then by threes for
-- every member, the root first: work, the n that was seen, api ('' keeps what stands, '-': there is none).
-- outcome: settled | waiting | held | parked. -> 'ok', or 'lost' where the lease went to somebody else
function steps.release()
  local token, outcome, due, root = ARGV[2], ARGV[3], now + tonumber(ARGV[4]), ARGV[13]
  local key = 'db:' .. root
  for i = 13, #ARGV, 3 do
    if call('HGET', 'db:' .. ARGV[i], 'lease') ~= token then return 'lost' end
  end
  if ARGV[9] == 'unauthorized' and is_refused_alone(ARGV[8], root) then
    outcome = 'parked'
  elseif ARGV[9] ~= '' then
    local took_ms = tonumber(string.match(ARGV[6], '"took_ms":(%d+)')) or 0
    judge(ARGV[8], ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), root, took_ms)
  elseif ARGV[8] ~= '' and call('HGET', ARGV[8], 'probe') == root then
    -- A probe that had no reason to call says nothing; another one goes.
    call('HSET', ARGV[8], 'until', now)
    call('HDEL', ARGV[8], 'probe')
  end
  if ARGV[6] ~= '' then note_attempt(key, ARGV[6]) end
  for i = 13, #ARGV, 3 do
    local member, api = 'db:' .. ARGV[i], ARGV[i + 2]
    if api == '-' then call('HDEL', member, 'api', 'tried') elseif api ~= '' then call('HSET', member, 'api', api) end
    if outcome == 'settled' then
      call('HSET', member, 'done', ARGV[i + 1])
      settle(ARGV[i], ARGV[7])
    elseif i > 13 then
      leave(ARGV[i], call('HGET', member, 'state'))
      call('HDEL', member, 'state', 'lease', 'job', 'lost')
    end
  end
  if outcome ~= 'settled' then
    if outcome == 'parked' then progress() end
    if outcome == 'held' then hold(root) else move(root, outcome, outcome == 'parked' and now or due) end
    call('HDEL', key, 'lease', 'job', 'due', 'lost')
    if outcome == 'parked' then call('HDEL', key, 'lane', 'probes', 'refused') end
    call('HSET', key, 'reason', ARGV[5])
    if outcome == 'waiting' then call('HSET', key, 'due', due) end
    if ARGV[12] == '' and outcome ~= 'held' then
      call('HDEL', key, 'tries', 'failed_since')
    elseif ARGV[12] ~= '' then
      call('HSET', key, 'tries', ARGV[12])
      call('HSETNX', key, 'failed_since', now)
    end
  end
  for i = 13, #ARGV, 3 do
    if (call('HGET', 'db:' .. ARGV[i], 'n') or '0') ~= ARGV[i + 1] then
      -- What an event points at is fetched anew; where it waits, it will be.
      if string.find(ARGV[i], '^visit:') then
        wake(ARGV[i])
      elseif outcome == 'settled' or outcome == 'parked' then
        enqueue_again(ARGV[i])
      end
    elseif outcome == 'settled' then
      call('HDEL', 'db:' .. ARGV[i], 'ask', 'replaces')
    end
  end
  return 'ok'
end

-- delivery, token, the n that was seen, attempt, keep ms, the reason where an operator is needed for the rest of the event, or '';
-- changes: what an event turned out to mean. -> 'ok' | 'lost' | {reason} where a bound of a visit leaves no room
function steps.landed()
  local work = 'event:' .. ARGV[2]
  local key = 'db:' .. work
  if call('HGET', key, 'lease') ~= ARGV[3] then return 'lost' end
  local bound = no_room(8)
  if bound then return {bound} end
  local replaces, said = unpack(call('HMGET', key, 'replaces', 'landed'))
  if replaces then unsay(ARGV[2], said or '') end
  land(ARGV[2], 8, replaces)
  note_attempt(key, ARGV[5])
  call('HSET', key, 'done', ARGV[4], 'landed', works_of(8))
  if ARGV[7] == '' then
    settle(work, ARGV[6])
  else
    progress()
    move(work, 'parked', now)
    call('HDEL', key, 'lease', 'job', 'due', 'lane', 'tries', 'failed_since', 'lost')
    call('HSET', key, 'reason', ARGV[7])
  end
  if call('HGET', key, 'n') ~= ARGV[4] then enqueue_again(work) else call('HDEL', key, 'replaces') end
  return 'ok'
end

-- A set of work may hold what is no name of any: whoever can write to Redis wrote it. It must not stop everybody.
local function works_in(set, page)
  local works = {}
  for _, name in ipairs(page) do
    if string.find(name, '^visit:[^/]+/.') or string.find(name, '^event:.') then
      works[#works + 1] = name
    else
      call('ZREM', set, name)
    end
  end
  return works
end

-- Its lease ran out. Once is a worker that was ended; again and again, it may be what ends them: it is put to work apart from
-- the others, the last time as good as alone, and in the end left to an operator. What ends the workers must not take those
-- along that happened to run beside it each time.
local MOST_LOST, APART_MS, ALONE_MS = 5, 250, 10000
local function alone()
  local turn = tonumber(call('GET', 'db:alone') or 0)
  if turn < now or turn > now + 3600000 then turn = now end
  call('SET', 'db:alone', string.format('%.0f', turn + ALONE_MS), 'PX', 3600000)
  return turn + ALONE_MS - now
end

local function take_back(works)
  local parked = {}
  for i, work in ipairs(works) do
    local lost = parked[work] and 0 or call('HINCRBY', 'db:' .. work, 'lost', 1)
    if lost >= MOST_LOST then
      local members = family(work)
      for _, member in ipairs(members) do
        if member[4] == 'running' then
          parked[member[1]] = true
          leave(member[1], 'running')
          call('HDEL', 'db:' .. member[1], 'state', 'lease', 'job', 'lost')
        end
      end
      local said = string.format('its lease ran out %d times and no run came to an end', lost)
      park(members[1][1], 'crashed_repeatedly', said)
    elseif lost == MOST_LOST - 1 then
      enqueue(work, alone())
    elseif lost > 0 then
      enqueue(work, lost > 1 and i * APART_MS or 0)
    end
  end
end

-- The clock went back: what was put at a time that has not come yet is moved by as much as the newest sign of life of a
-- worker lies ahead. Leases that still live were renewed by their holders; others end half a minute from now.
local function follow_clock_back(most)
  local ahead = (tonumber(call('ZREVRANGE', 'db:workers', 0, 0, 'WITHSCORES')[2]) or 0) - now
  if ahead > 2000 then
    for _, worker in ipairs(call('ZRANGEBYSCORE', 'db:workers', now, '+inf')) do call('ZADD', 'db:workers', now, worker) end
    for _, work in ipairs(call('ZRANGE', 'db:waiting', 0, -1)) do
      call('ZINCRBY', 'db:waiting', -ahead, work)
      call('HINCRBY', 'db:' .. work, 'due', -ahead)
    end
    for _, gate in ipairs(call('SMEMBERS', 'db:gates')) do
      if call('HEXISTS', gate, 'until') == 1 and call('HGET', gate, 'why') ~= 'paused' then
        call('HINCRBY', gate, 'until', -ahead)
      end
      call('DEL', (string.gsub(gate, '^db:gate', 'db:pace')))
    end
  end
  for _, work in ipairs(call('ZRANGEBYSCORE', 'db:queued', now + 2000, '+inf', 'LIMIT', 0, most)) do
    local job, lane = unpack(call('HMGET', 'db:' .. work, 'job', 'lane'))
    call('ZADD', 'db:queued', now, work)
    if job then call('ZADD', lane_of(work, lane), 'XX', now, job) end
  end
  for _, work in ipairs(call('ZRANGEBYSCORE', 'db:running', now + 60000, '+inf', 'LIMIT', 0, most)) do
    call('ZADD', 'db:running', now + 30000, work)
  end
end

-- most, keep ms: what has become due, and what a dead worker left. -> how many were put to work
function steps.sweep()
  follow_clock_back(ARGV[2])
  local due = works_in('db:waiting', call('ZRANGEBYSCORE', 'db:waiting', '-inf', now, 'LIMIT', 0, ARGV[2]))
  local left = works_in('db:running', call('ZRANGEBYSCORE', 'db:running', '-inf', now, 'LIMIT', 0, ARGV[2]))
  call('ZREMRANGEBYSCORE', 'db:discarded', '-inf', now - ARGV[3])
  for _, work in ipairs(due) do enqueue(work) end
  take_back(left)
  return #due + #left
end

-- set, ms, most: what is older leaves a set that is sorted by time. -> how many
function steps.trim()
  local old = call('ZCOUNT', ARGV[2], '-inf', now - ARGV[3])
  return old > 0 and call('ZREMRANGEBYRANK', ARGV[2], 0, math.min(old, tonumber(ARGV[4])) - 1) or 0
end

-- most, grace ms, offset: queued work whose job is gone gets another. -> {how many, next offset or -1}
function steps.orphans()
  local most, offset, woken = tonumber(ARGV[2]), tonumber(ARGV[4]), 0
  local page = call('ZRANGEBYSCORE', 'db:queued', '-inf', now - tonumber(ARGV[3]), 'LIMIT', offset, most)
  for _, work in ipairs(works_in('db:queued', page)) do
    local job, lane = unpack(call('HMGET', 'db:' .. work, 'job', 'lane'))
    if not job or not call('ZSCORE', lane_of(work, lane), job) or call('EXISTS', 'arq:job:' .. job) == 0 then
      enqueue(work)
      woken = woken + 1
    end
  end
  return {woken, #page < most and -1 or offset + #page - woken}
end

-- Of the first in line the one that never failed and was sent least often: a visit that the API always refuses must not be
-- every probe. Where a probe failed, of any in line, and rather of another tool: it may be that tool's visits that fail, and
-- new ones of them may come first for ever.
local function next_probe(gate, held)
  local failed = call('HGET', gate, 'failed')
  local line = failed and call('ZRANDMEMBER', held, 50) or call('ZRANGE', held, 0, 49)
  local chosen, fewest
  for _, work in ipairs(works_in(held, line)) do
    local tries, probes = unpack(call('HMGET', 'db:' .. work, 'tries', 'probes'))
    probes = (probes or 0) + (tries and 1e6 or 0) + (tool_of(work) == failed and 1e3 or 0)
    if not fewest or probes < fewest then chosen, fewest = work, probes end
  end
  if chosen then call('HINCRBY', 'db:' .. chosen, 'probes', 1) end
  return {chosen}
end

-- The visits that start soonest; where calls are paced, every second one that goes is the one that has waited longest, once
-- that is half a minute: visits that start sooner may come for ever.
local LONG_WAIT_MS = 30000
local function next_in_line(held, ages, most, is_paced)
  local out, is_out = {}, {}
  local function add(works)
    for _, work in ipairs(works) do
      if #out < most and not is_out[work] then
        is_out[work] = true
        out[#out + 1] = work
      end
    end
  end
  local aged = is_paced and math.floor((most + time[2] % 2) / 2) or 0  -- of an odd number, chance has one
  if aged > 0 then add(works_in(ages, call('ZRANGEBYSCORE', ages, '-inf', now - LONG_WAIT_MS, 'LIMIT', 0, aged))) end
  add(works_in(held, call('ZRANGE', held, 0, most - 1)))
  return out
end

-- When the next place in a line for calls is free. Nobody joins a line of more than two minutes: then the clock went back.
local function turn_in_line(pace, gap)
  local turn = tonumber(call('GET', pace) or 0)
  return (turn < now or turn > now + 120000 + gap) and now or turn
end

-- How many visits may go on without making the line for a call longer than `long` ms; most take one or two calls.
local function room_in_line(pace, calls_a_second, long)
  local line = turn_in_line(pace, 1000 / calls_a_second) - now
  return math.ceil((long - line) * calls_a_second / 1000 / 2)
end

-- account, most, calls a second or '', ms: when the gate's time has come, let one probe out; when it is open, what it held,
-- what never failed and the visit that starts soonest first. -> how many
function steps.gate()
  local gate, held, most = 'db:gate:' .. ARGV[2], 'db:held:' .. ARGV[2], tonumber(ARGV[3])
  local shut = call('HGET', gate, 'until')
  if shut and tonumber(shut) > now then return 0 end
  if shut and call('HGET', gate, 'why') == 'rate_limited' then
    call('DEL', gate)
    shut = false
  end
  if ARGV[4] ~= '' then most = math.min(most, room_in_line('db:pace:' .. ARGV[2], ARGV[4], ARGV[5])) end
  if most < 1 then return 0 end
  local out = shut and next_probe(gate, held) or next_in_line(held, 'db:ages:' .. ARGV[2], most, ARGV[4] ~= '')
  for i, work in ipairs(out) do
    enqueue(work, i / 1000)
    if ARGV[4] ~= '' then call('HSET', 'db:' .. work, 'let_out', 1) end
    -- A probe that dies is replaced when its lease would have ended.
    if shut then call('HSET', gate, 'probe', work, 'until', now + 30000) end
  end
  return #out
end

-- account, 1 or 0: an operator shuts the gate, and no answer of the API opens it; or opens it. -> 1 if that changed anything
function steps.pause()
  local gate, is_paused = 'db:gate:' .. ARGV[2], call('HGET', 'db:gate:' .. ARGV[2], 'why') == 'paused'
  if ARGV[3] == '0' then
    if is_paused then progress() end  -- what stood still did so because somebody wanted it to
    return is_paused and call('DEL', gate) or 0
  end
  if is_paused then return 0 end
  call('SADD', 'db:gates', gate)
  call('HDEL', gate, 'probe')
  call('HSET', gate, 'why', 'paused', 'since', now, 'until', '9007199254740991')
  return 1
end

local function put_back(work, lane)
  local key, delivery = 'db:' .. work, string.match(work, '^event:(.*)$')
  local state = call('HGET', key, 'state')
  call('HDEL', key, 'failed_since', 'due', 'lost', 'again')
  if delivery then
    call('PERSIST', 'db:delivery:' .. delivery)
    call('HSET', key, 'rang', now)  -- what it points at is asked for anew
  end
  if state == 'running' then
    call('HINCRBY', key, 'n', 1)
    return 'running'
  end
  call('HDEL', key, 'tries', 'reason')
  if state == 'queued' then return 'queued' end
  if lane ~= '' then call('HSET', key, 'lane', lane) end
  enqueue(work)
  return 'queued'
end

-- work, fresh, numbers, lane: put the visit back to work, by any of its ids, whatever came of it. fresh = 1: the API is asked
-- what stands there, under each of them; numbers: its own ids of visits that stand beside. -> 'queued' | 'running' | 'gone'
function steps.replay()
  if call('EXISTS', 'db:' .. ARGV[2]) == 0 then return 'gone' end
  local members = family(ARGV[2])
  local root = members[1][1]
  if ARGV[3] == '1' then
    for i = 2, #members do call('HSET', 'db:' .. members[i][1], 'tried', 1) end
    call('HSET', 'db:' .. root, 'ask', ARGV[4])
  end
  return put_back(root, ARGV[5])
end

-- delivery, the head of its record as it was read, new head, works, lane: it is translated anew, and what comes of it takes
-- the place of what it said. Where the door had translated it: the head with the event as its work, and the visits that it
-- spoke of; else '' and ''. -> 'moved' where the head is another one by now: the body may have been removed
function steps.rederive()
  local work, key, head = 'event:' .. ARGV[2], 'db:delivery:' .. ARGV[2], ARGV[3]
  local record = call('GET', key)
  if not record then return 'gone' end
  if string.sub(record, 1, #head + 1) ~= head .. '\n' then return 'moved' end
  if call('HSETNX', 'db:' .. work, 'n', 1) == 1 and ARGV[4] ~= '' then
    call('SET', key, ARGV[4] .. string.sub(record, #head + 1))
    call('HSET', 'db:' .. work, 'landed', ARGV[5])
  end
  call('HSET', 'db:' .. work, 'replaces', 1)
  return put_back(work, ARGV[6])
end

-- work, token, origins: a worker forgets changes that can never win again. -> how many
function steps.compact()
  local key = 'db:' .. ARGV[2]
  if call('HGET', key, 'lease') ~= ARGV[3] then return 0 end
  local gone = 0
  for i = 4, #ARGV do gone = gone + call('HDEL', key, 'c:' .. ARGV[i], 'x:' .. ARGV[i]) end
  return call('HINCRBY', key, 'dropped', gone)
end

local function drop(work, delivery)
  local key, dropped, left = 'db:' .. work, 0, 0
  local done, hash = tonumber(call('HGET', key, 'done') or 0), call('HGETALL', key)
  for f = 1, #hash, 2 do
    local origin = string.match(hash[f], '^c:(.*)$')
    if origin and tonumber(string.match(hash[f + 1], '^%d+')) > done then
      if delivery == '' or string.match(origin, '^(.*)%.%d+$') == delivery then
        call('HDEL', key, hash[f])
        call('HSET', key, 'x:' .. origin, hash[f + 1])
        dropped = dropped + 1
      else
        left = left + 1
      end
    end
  end
  return dropped, left
end

-- work, keep ms, delivery or '', how many changes all ids of it had when somebody looked: an operator gives up what has not
-- been applied, of one delivery or of all. -> how many changes, at least 1 where that was all of the work; -1 while a worker
-- has it, -2 where something landed since
function steps.discard()
  local members, dropped, open, landed = family(ARGV[2]), 0, false, 0
  for _, member in ipairs(members) do
    if member[4] == 'running' then return -1 end
    open = open or (member[4] and member[4] ~= 'discarded')
    landed = landed + (call('HGET', 'db:' .. member[1], 'n') or 0)
  end
  if ARGV[5] ~= '' and landed ~= tonumber(ARGV[5]) then return -2 end
  if not open then return 0 end
  local left = 0
  for _, member in ipairs(members) do
    local gone, rest = drop(member[1], ARGV[4])
    dropped, left = dropped + gone, left + rest
  end
  if left > 0 then return dropped end
  for _, member in ipairs(members) do
    call('HSET', 'db:' .. member[1], 'done', call('HGET', 'db:' .. member[1], 'n') or 0)
    settle(member[1], ARGV[3])
  end
  move(members[1][1], 'discarded', now)
  call('HINCRBY', 'db:counts', 'doorbell_tasks_finished_total|' .. string.match(ARGV[2], '^%a+') .. '|discarded', 1)
  call('ZREMRANGEBYSCORE', 'db:discarded', '-inf', now - ARGV[3])
  return math.max(dropped, 1)
end

-- work, mark: an audit saw it in the API; what is forgotten meanwhile is not remembered for that
function steps.seen()
  return call('EXISTS', 'db:' .. ARGV[2]) == 1 and call('HSET', 'db:' .. ARGV[2], 'seen', ARGV[3])
end

-- work, the n that was seen or '', an event's delivery as it is to stand or ''; by pairs: fields, and what stands there
-- instead. What speaks of a person is overwritten, and nothing else. -> 'ok', 'busy' while a worker has it, or 'moved'
function steps.forget()
  local work, key = ARGV[2], 'db:' .. ARGV[2]
  local state, n = unpack(call('HMGET', key, 'state', 'n'))
  if state == 'running' and tonumber(call('ZSCORE', 'db:running', work)) > now then return 'busy' end
  if (n or '') ~= ARGV[3] then return 'moved' end
  if ARGV[4] ~= '' then call('SET', 'db:delivery:' .. string.match(work, '^event:(.*)$'), ARGV[4], 'XX', 'KEEPTTL') end
  for i = 5, #ARGV, 2 do
    if call('HEXISTS', key, ARGV[i]) == 1 then call('HSET', key, ARGV[i], ARGV[i + 1]) end
  end
  if n then call('HSET', key, 'forgot', now) end
  return 'ok'
end

-- id, work, change: an operator's own change.
function steps.operate()
  land(ARGV[2], 3)
  return 'ok'
end

-- work -> [work, generation, hash]… as in begin, for reading
function steps.look()
  return shown((family(ARGV[2])))
end

-- key, calls a second, most ms: a place in a line that all workers share. -> ms to wait for it; -ms: too long, not taken
function steps.pace()
  local gap = 1000 / tonumber(ARGV[3])
  local turn = turn_in_line(ARGV[2], gap)
  local wait = math.ceil(turn - now)
  if wait > tonumber(ARGV[4]) then return -wait end
  call('SET', ARGV[2], string.format('%.3f', turn + gap), 'PX', math.ceil(wait + gap) + 60000)
  return wait
end

-- ms, lock, token: take a lock, or keep one, for so long at the most. -> 1, or nil while somebody else has it
function steps.lock()
  if call('GET', ARGV[3]) == ARGV[4] then return call('PEXPIRE', ARGV[3], ARGV[2]) end
  return call('SET', ARGV[3], ARGV[4], 'NX', 'PX', ARGV[2]) and 1
end

-- [length, command, argument…]…: commands that are executed together, also on a full server. -> their replies
function steps.commands()
  local replies, i = {}, 2
  while i <= #ARGV do
    local last = i + tonumber(ARGV[i])
    replies[#replies + 1] = call(unpack(ARGV, i + 1, last))
    i = last + 1
  end
  return replies
end

-- key, seconds or 0, [field, count]…: what a process counted since it last said so
function steps.tally()
  for i = 4, #ARGV, 2 do call('HINCRBY', ARGV[2], ARGV[i], ARGV[i + 1]) end
  return ARGV[3] ~= '0' and call('EXPIRE', ARGV[2], ARGV[3])
end

-- key, value, ms: a worker lives; its name stands among those that do
function steps.beat()
  call('SET', ARGV[2], ARGV[3], 'PX', ARGV[4])
  call('ZREMRANGEBYSCORE', 'db:workers', '-inf', now - ARGV[4])
  return call('ZADD', 'db:workers', now, ARGV[2])
end

-- lock, token: give a lock back, unless it has become somebody else's
function steps.unlock()
  return call('GET', ARGV[2]) == ARGV[3] and call('DEL', ARGV[2]) or 0
end

-- lease ms, lane:account… without room, [lane, most]…: jobs for a worker, those due longest first. A claimed job's turn comes
-- again when the lease ends: the jobs of a dead worker come back, and running ones do not stand in the way of those behind
-- them. Nor do those for which there is no room: their turn comes a second later. -> [lane, job, payload or '']…
local PUT_OFF_MS, MOST_PUT_OFF = 1000, 1000
function steps.claim()
  local claimed, full = {}, {}
  for share in string.gmatch(ARGV[3], '%S+') do full[share] = true end
  for l = 4, #ARGV, 2 do
    local lane, room = ARGV[l], tonumber(ARGV[l + 1])
    local most = next(full) and room + MOST_PUT_OFF or room
    for _, job in ipairs(call('ZRANGEBYSCORE', LANES[lane], '-inf', now, 'LIMIT', 0, most)) do
      local account = string.match(job, '^visit:([^/]*)/')
      if account and full[lane .. ':' .. account] then
        call('ZADD', LANES[lane], now + PUT_OFF_MS, job)
      elseif room > 0 then
        room = room - 1
        call('ZADD', LANES[lane], now + tonumber(ARGV[2]), job)
        for _, part in ipairs({lane, job, call('GET', 'arq:job:' .. job) or ''}) do claimed[#claimed + 1] = part end
      end
    end
  end
  return claimed
end

-- job, lane: it has run
function steps.ran()
  call('ZREM', LANES[ARGV[3]], ARGV[2])
  return call('DEL', 'arq:job:' .. ARGV[2])
end

-- visit, when its record was asked for (us), ms to keep, the people in the record: the list of everybody whom any record of
-- it listed, those first who were listed first. A record that is older than one that was seen, and lists somebody new, is
-- outdated: who was taken off the list since would not be known. -> the list, or 'outdated'
function steps.people()
  local key, at, new = 'db:people:' .. ARGV[2], tonumber(ARGV[3]), {}
  for i = 5, #ARGV do
    if not call('ZSCORE', key, ARGV[i]) then new[#new + 1] = ARGV[i] end
  end
  local newest = tonumber(call('ZSCORE', key, '') or 0)
  if #new > 0 and at < newest then return 'outdated' end
  local count = call('ZCARD', key)
  for i, person in ipairs(new) do call('ZADD', key, count + i, person) end
  call('ZADD', key, at > newest and ARGV[3] or string.format('%.0f', newest), '')
  call('PEXPIRE', key, ARGV[4])
  local people = call('ZRANGE', key, 0, -1)
  people[#people] = nil
  return people
end

-- A full server refuses a script's first write if it takes room, and lets a script finish that began with another. The door's
-- step has not come this far: it is refused, and what was accepted can still be worked off.
if ARGV[1] ~= 'look' then call('DEL', 'db:none') end
return steps[ARGV[1]]()
