"""The controller: a pure state machine. Events go in, commands come out, time is in the events."""
