"""F6: the command line. Commands import what is heavy when they run: `rtp --help` stays quick."""
