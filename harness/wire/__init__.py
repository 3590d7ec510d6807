"""Sans-I/O codecs of the scripted peers: legal by default, able to break one thing."""
