"""Review Rover's Visits API: the changes of a visit, their merge, and the client."""
