"""The web API: takes orders, and says what became of them.

curl -d '{"item": "tea", "price": 4.5}' http://127.0.0.1:8000/orders
curl http://127.0.0.1:8000/orders/1b2d7a90
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import zbus
from zbus import aio

states: dict[str, str] = {}


async def follow(results: aio.Subscription) -> None:
    """Note what the worker decides. The loop ends when `results` is closed."""
    async for evt in results:
        states[evt.path] = evt.kind


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, aio.Bus]]:
    """Open the bus when the server starts, and close it when the server stops."""
    async with aio.Bus() as bus:
        results = await bus.subscribe("orders", "order.(accepted|rejected)")
        task = asyncio.create_task(follow(results))
        yield {"bus": bus}
        await results.close()
        await task


async def create(request: Request) -> JSONResponse:
    path = f"/orders/{uuid.uuid4().hex[:8]}"
    # First the state, then the event: the worker may answer before `send` returns.
    states[path] = "order.created"
    try:
        # If no worker runs, the event goes to nobody, and that is not an error. If a worker runs but does not
        # keep up, its queue fills, and `send` waits for room.
        await request.state.bus.send("orders", "order.created", path, await request.json(), timeout=1.0)
    except zbus.Timeout:
        return JSONResponse({"error": "busy, try again later"}, 503)
    except ValueError as error:  # not JSON, or, as `zbus.Invalid`, nothing that zbus can send
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"order": path}, 202)


async def show(request: Request) -> JSONResponse:
    state = states.get(request.url.path)
    return JSONResponse({"state": state}, 200 if state else 404)


app = Starlette(
    routes=[Route("/orders", create, methods=["POST"]), Route("/orders/{number}", show)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
