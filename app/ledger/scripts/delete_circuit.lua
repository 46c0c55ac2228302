#!lua flags=allow-oom,allow-cross-slot-keys
--- delete_circuit: Delete the circuit of an account, unless an operator paused the account.
--- @args account
--- @include lib/progress

local circuit = key.circuit .. account
if call('HGET', circuit, 'kind') ~= 'paused' and call('DEL', circuit) == 1 then note_progress() end
