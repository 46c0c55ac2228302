--- The clock of the server, in ms: one clock for all processes on all machines.
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
