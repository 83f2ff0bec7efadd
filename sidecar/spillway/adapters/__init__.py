"""One package per engine: the only rooms that know an engine's interfaces, or torch. Inside them the engine's words are allowed."""
