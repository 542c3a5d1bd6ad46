"""A FastAPI application: `uvicorn main:app`, and `jobsctl start` beside it. It needs no plugin."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, HTTPException
from jobs import Picture, thumbnail
from pydantic import BaseModel

from jobs_core import State, current_app

app = FastAPI()


class Queued(BaseModel):
    """The answer to an upload: where to ask for the state of the job."""

    id: str


class Progress(BaseModel):
    state: str
    result: str | None = None


@app.post("/pictures", status_code=202)
async def take(picture: Picture) -> Queued:
    """Enqueue a job; the event loop is not blocked meanwhile, and the pydantic model is the job's argument."""
    handle = await thumbnail.aenqueue(picture)
    return Queued(id=handle.id)


@app.get("/pictures/{job_id}")
def progress(job_id: str) -> Progress:
    record = current_app().find(job_id)
    if record is None:
        raise HTTPException(404)
    if record.state is State.DONE:
        return Progress(state="done", result=thumbnail.handle(job_id).result(timeout=1))
    return Progress(state=record.state.value)


if __name__ == "__main__":
    uvicorn.run(app, port=0)
