#!lua flags=allow-oom,allow-cross-slot-keys
--- delete_circuit: Delete the circuit of an account, unless an operator paused the account.
--- @args account
--- @include lib/clock

local circuit = key.circuit .. account
if call('HGET', circuit, 'kind') ~= 'paused' then call('DEL', circuit) end
