"""How fast a model of any size trains and embeds on the devices of this machine."""
