"""How long transfers take: closed forms on a healthy, otherwise idle fabric."""
