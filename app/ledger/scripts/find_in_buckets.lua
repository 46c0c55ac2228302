#!lua flags=no-writes,allow-cross-slot-keys
--- find_in_buckets: Find the ids of digests in an index, of each those that expire last first, and of these the newest first.
--- limit: for each digest. tail: the digest without its first byte.
--- @args index limit
--- @varargs digests: digits tail
--- @returns the ids of each digest
--- @include lib/buckets

local function add_ids(ids, name, tail)
  local entries = call('LRANGE', name, 0, -1)
  for i = #entries, 1, -1 do
    if #ids == tonumber(limit) then return end
    if string.sub(entries[i], 1, #tail) == tail then ids[#ids + 1] = string.sub(entries[i], #tail + 1) end
  end
end

local all = {}
for i, digest in ipairs(digests) do
  all[i] = {}
  each_bucket(index, digest.digits, function(name) add_ids(all[i], name, digest.tail) end)
end
return all
