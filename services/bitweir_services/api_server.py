"""The API on a socket: uvicorn, configured once, and never open to others without keys."""

from typing import Final

import uvicorn
from fastapi import FastAPI

from bitweir_services.api_keys import check_address

KEEP_ALIVE_S: Final = 15
SHUTDOWN_S: Final = 10
HEADER_BYTES_MAX: Final = 32 * 1024


def server(app: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """Return a server that is not started; `await server.serve()` runs it until it is told to stop.

    Args:
        app: of `api.create_app`.
        host: address to listen on.
        port: 0 for any.

    Raises:
        ApiKeysError: others can reach the address, and there are no keys.
    """
    check_address(host, app.state.keys)
    # No access log: a URL may hold what somebody asked. No headers are believed that name another client or scheme.
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )
    return uvicorn.Server(config)
