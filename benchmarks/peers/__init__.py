"""The servers that the gateway is measured
against. Each answers the same requests from the same tables with the same JSON."""
