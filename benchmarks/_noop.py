"""The yardstick of the serving benchmark: an endpoint of FastAPI with a body and a response model that does nothing."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Body(BaseModel):
    """The body of a decision."""

    subject: str
    features: dict[str, float | str | bool | None] = {}


class Reply(BaseModel):
    """A little of a decision's answer."""

    id: str
    offer: str
    probability: float


@app.post("/noop")
async def noop(body: Body) -> Reply:
    """Answer without doing anything."""
    return Reply(id=body.subject, offer="a", probability=1.0)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")).run(
        sockets=[listener]
    )
