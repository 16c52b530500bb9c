"""The explorer's server: a page on this machine alone, and what the page asks.

It listens on 127.0.0.1. Every address begins with a random token, so that no other page of the
browser and no other user of the machine can ask; and a request for another host is refused, so
that no name of elsewhere can lead here (DNS rebinding). The page loads nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_iba.errors import InputError
from lit_iba.report.page import color_rules
from lit_iba.report.page_gallery import ramp
from lit_iba.report.pictures import picture_uri
from lit_iba.report.templates import own_text, render
from lit_iba.view.live import Removal
from lit_iba.view.maps import AskedMaps, WantedMap, map_asked_for
from lit_iba.view.session import ExplorerSession
from lit_iba.view.worker import Superseded, Worker

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # a port that ssh forwards has another number, so any number will do
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src"
        " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # the address has the token
    "x-content-type-options": "nosniff",
}
SCRIPTS = ("zoom", "view")
SUPERSEDED = 409
FAILED = "this could not be computed; the terminal of lit-iba view says why"
MOST_METHODS = 32  # of one question
LONGEST = 1 << 16  # bytes of one


class Guard:
    """Lets only those in who know the token, and whose address is this machine's.

    Args:
        app: What is guarded; its paths begin behind the token.
        token: The secret.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, by the rules of ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        token, _, rest = scope["path"].removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.token.encode())
        if scope["type"] != "http" or not known or not _of_this_machine(scope):
            refusal = PlainTextResponse("open the address that lit-iba view has printed", 403)
            await refusal(scope, receive, with_headers)
            return
        await self.app({**scope, "path": f"/{rest}", "raw_path": b""}, receive, with_headers)


def _of_this_machine(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    try:
        return len(hosts) == 1 and urlsplit(f"//{hosts[0]}").hostname in HOSTS
    except ValueError:  # no address at all
        return False


def explorer_app(session: ExplorerSession, token: str, worker: Worker) -> ASGIApp:
    """The explorer as an ASGI application.

    Args:
        session: What it shows.
        token: What every path begins with.
        worker: That asks the classifier.

    Example:
        >>> from lit_iba.view import ExplorerSession, explorer_app
        >>> from lit_iba.view.worker import Worker
        >>> app = explorer_app(ExplorerSession.of_run("runs/digits"), "secret", Worker())
        >>> type(app).__name__
        'Guard'
    """
    pages = _Pages(session, worker)
    routes = [
        Route("/", pages.page),
        Route("/page.css", pages.style),
        Route("/{name}.js", pages.script),
        Route("/session", pages.session),
        Route("/pictures/{picture:int}", pages.picture),
        Route("/maps/{picture:int}/{method}", pages.map),
        Route("/ask", pages.ask, methods=["POST"]),
        Route("/explain", pages.explain),
    ]
    handlers: dict[Any, Any] = {
        InputError: _refused,
        Superseded: _superseded,
        Exception: _failed,
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _superseded(request: Request, error: Exception) -> Response:
    return JSONResponse({"superseded": True}, SUPERSEDED)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": FAILED}, 500)


class _Pages:
    def __init__(self, session: ExplorerSession, worker: Worker) -> None:
        self.shown, self.worker, self.asked = session, worker, AskedMaps()

    async def page(self, request: Request) -> Response:
        session = self.shown
        made = render(
            "view/page.html", title=session.title, facts=session.facts, notices=session.notices
        )
        return Response(made, media_type="text/html")

    async def style(self, request: Request) -> Response:
        ramps = "".join(
            f".ramp.{name}{{background:{ramp(signed)}}}"
            for name, signed in (("sizes", False), ("signs", True))
        )
        sheets = (color_rules(), own_text("report/page.css"), own_text("view/view.css"), ramps)
        return Response("\n".join(sheets), media_type="text/css")

    async def script(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SCRIPTS:
            raise HTTPException(404)
        return Response(own_text(f"view/{name}.js"), media_type="text/javascript")

    async def session(self, request: Request) -> Response:
        return JSONResponse(self.shown.described())

    async def picture(self, request: Request) -> Response:
        return JSONResponse(self.shown.shown_picture(request.path_params["picture"]))

    async def map(self, request: Request) -> Response:
        return JSONResponse(self.shown.shown_map(**_numbered(request.path_params)))

    async def ask(self, request: Request) -> Response:
        """What the classifier sees with pixels removed, for the order of one map or of several."""
        session = self.shown
        if session.live is None:
            raise InputError("this page has no classifier to ask")
        live = session.live
        given = await _json(request)
        page = str(given.pop("page", ""))
        picture = session.picture(_number(given.pop("picture", None)))
        methods = given.pop("methods", None)
        if not isinstance(methods, list) or not 0 < len(methods) <= MOST_METHODS:
            raise InputError(f"methods are {methods!r}; name at least one")
        maps = {str(name): self.asked.find(session, picture, str(name)) for name in methods}
        try:
            removal = Removal(**given)
        except TypeError as error:
            raise InputError(f"a removal has no such setting ({error})") from error

        def work(check: Callable[[], None]) -> dict[str, Any]:
            answers = {}
            for name, values in maps.items():
                check()
                seen = live.removed(picture, values, removal)
                answers[name] = {**vars(seen), "picture": picture_uri(seen.picture)}
            return answers

        return JSONResponse(await asyncio.wrap_future(self.worker.ask(work, page).answer))

    async def explain(self, request: Request) -> Response:
        """A map by other settings, with progress, as server-sent events."""
        given = dict(request.query_params)
        events = self._events(map_asked_for(self.shown, given), given.get("page", ""))
        return StreamingResponse(events, media_type="text/event-stream")

    async def _events(self, wanted: WantedMap, page: str) -> AsyncIterator[str]:
        loop, told = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]]()

        def tell(kind: str, value: Any) -> None:
            loop.call_soon_threadsafe(told.put_nowait, (kind, value))

        def work(check: Callable[[], None]) -> None:
            def on_step(stage: str, done: int, total: int) -> None:
                check()
                tell("progress", {"stage": stage, "done": done, "total": total})

            try:
                tell("map", self.asked.made(wanted, on_step))
            except Superseded:
                tell("superseded", {})
            except InputError as error:
                tell("refused", {"error": str(error)})

        question = self.worker.ask(work, page)
        question.answer.add_done_callback(lambda answer: tell("end", answer.exception()))
        try:
            while True:
                kind, value = await told.get()
                if kind == "end":
                    if isinstance(value, Superseded):  # before its first step
                        yield _event("superseded", {})
                    elif value is not None:
                        yield _event("refused", {"error": FAILED})
                        raise value
                    return
                yield _event(kind, value)
        finally:
            question.withdraw()  # nobody listens any more


def _event(kind: str, value: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


def _numbered(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"number": parameters["picture"], "name": parameters["method"]}


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"picture is {value!r}; it must be a whole number")
    return value


async def _json(request: Request) -> dict[str, Any]:
    said = b""
    async for part in request.stream():
        said += part
        if len(said) > LONGEST:
            raise InputError(f"a question has at most {LONGEST} bytes")
    try:
        given = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise InputError("the question is no JSON") from error
    if not isinstance(given, dict):
        raise InputError("a question is a mapping of settings")
    return given


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self.worker = worker

    def handle_exit(self, *given: Any) -> None:
        """Ctrl-C: let the question under way end first, since an answer is waited for."""
        self.worker.stop()
        super().handle_exit(*given)


def listening(port: int | None) -> socket.socket:
    """A socket on this machine's own address; a free port where none is given.

    Raises:
        InputError: The port is taken, or not to be had.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port or 0))
        made.listen()  # who opens the address early waits
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"port {port} cannot be used ({reason}); leave port out for a free one"
        ) from error
    return made


def serve(
    session: ExplorerSession,
    port: int | None = None,
    ready: Callable[[str], object] = print,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        session: What it shows.
        port: Of 127.0.0.1; None for a free one.
        ready: Given the page's address once it can be opened.

    Raises:
        InputError: The port is taken.

    Example:
        >>> from lit_iba.view import ExplorerSession, serve
        >>> session = ExplorerSession.of_run("runs/digits")
        >>> serve(session, port=-1)
        Traceback (most recent call last):
        ...
        lit_iba.errors.InputError: port -1 cannot be used (bind(): port must be 0-65535.); ...
    """
    where, token, worker = listening(port), secrets.token_urlsafe(24), Worker()
    config = uvicorn.Config(
        explorer_app(session, token, worker),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    with where:
        ready(f"http://{HOST}:{where.getsockname()[1]}/{token}/")
        try:
            _Server(config, worker).run(sockets=[where])
        except KeyboardInterrupt:  # which uvicorn raises again once it has closed everything
            pass
        finally:
            worker.close()
