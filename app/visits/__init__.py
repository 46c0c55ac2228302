"""Review Rover's Visits API, all of it: its words, the merge of facts, the client, the sandbox."""
