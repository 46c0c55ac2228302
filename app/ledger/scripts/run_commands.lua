#!lua flags=allow-oom,allow-cross-slot-keys
--- run_commands: Run several commands atomically, also on a full server.
--- arguments: for each command the number of its words, then the words.
--- @varargs arguments
--- @returns the replies

local replies, i = {}, 1
while i <= #arguments do
  local last = i + tonumber(arguments[i])
  replies[#replies + 1] = redis.call(unpack(arguments, i + 1, last))
  i = last + 1
end
return replies
