"""How the sites, the gate and the meters are put together: local.py as processes of one machine."""
