#!lua flags=allow-oom,allow-cross-slot-keys
--- find_in_buckets: Find the ids of digests in an index, of each those that expire last first, and of these the newest first.
--- limit: for each digest. tail: the digest without its first byte.
--- @args index limit
--- @varargs digests: digits tail
--- @returns the ids of each digest
--- @include lib/buckets

local ids = {}
for i, digest in ipairs(digests) do
  ids[i] = {}
  each_entry(index, digest.digits, digest.tail, function(_, entry)
    if #ids[i] < tonumber(limit) then ids[i][#ids[i] + 1] = string.sub(entry, #digest.tail + 1) end
  end)
end
return ids
