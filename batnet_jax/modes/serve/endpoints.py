"""The endpoints of the mode `serve` that need the model or the gallery."""

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batnet_jax.errors import printable
from batnet_jax.modes.serve.answers import Answers
from batnet_jax.modes.serve.following import Following
from batnet_jax.modes.serve.turns import Turns, client_of
from batnet_jax.modes.serve.uploads import FORMATS, parse_box, parse_number, read_body
from batnet_jax.modes.serve.verdicts import Bands
from batnet_jax.version import VERSION

MAX_HITS = 100
MAX_SAMPLES = 100
MAX_SEARCHES = 1
"""Queries that are decoded and searched at a time: a query of 50 megapixels takes 0.6 GB."""
MAX_PICTURES = 2
"""Gallery images that are decoded at a time."""
SIZES = {"small": (512, 256), "large": (1024, 1024)}
"""Largest height and width of a gallery image on the page, in pixels."""


class Endpoints:
    """Answers to requests."""

    def __init__(self, following: Following, bands: Bands | None, lowest: float | None = None):
        self._following, self._bands, self._lowest = following, bands, lowest
        self._searches, self._pictures = Turns(MAX_SEARCHES), Turns(MAX_PICTURES)
        self._newest = Answers(following.current, bands, lowest=lowest)

    def _answers(self) -> Answers:
        """Return the answers about the newest gallery; a request asks once."""
        current = self._following.current
        if self._newest.searcher is not current:
            changes = self._following.changes
            self._newest = Answers(current, self._bands, changes, lowest=self._lowest)
        return self._newest

    async def health(self, request: Request) -> Response:
        """Answer with the model, the gallery and the thresholds."""
        del request
        answers, bands = self._answers(), self._bands
        model = answers.searcher.model
        height, width = model.image_size
        about = {
            "name": printable(answers.searcher.workdir.absolute().name),
            "step": model.step,
            "dim": model.dim,
            "input": f"{height} x {width}",
        }
        words = (
            {"same": bands.same, "different": bands.different, "rate": bands.rate}
            if bands
            else None
        )
        found = {"status": "ok", "version": VERSION, "gallery": answers.count, "model": about}
        found |= {"changes": answers.changes, "problem": self._following.problem}
        return JSONResponse(found | {"bands": words, "accept": self._lowest})

    async def search(self, request: Request) -> Response:
        """Answer with the ranked list, as JSON, of the image in the request's body."""
        top, box = _parse_top(request), parse_box(request.query_params.get("box"))
        where = request.query_params.get("where")
        content = await _read_image(request)
        answers = self._answers()
        return await self._in_turn(
            self._searches, request, lambda: answers.find(content, box, top, where)
        )

    async def similar(self, request: Request) -> Response:
        """Answer with the ranked list of a gallery image, without the image itself."""
        answers = self._answers()
        number, top = _parse_item(request, answers), _parse_top(request)
        where = request.query_params.get("where")
        return await self._in_turn(
            self._searches, request, lambda: answers.find_like(number, top, where)
        )

    async def embed(self, request: Request) -> Response:
        """Answer with the feature of the image in the request's body."""
        box = parse_box(request.query_params.get("box"))
        normalize = request.query_params.get("normalize", "false")
        if normalize not in ("true", "false"):
            raise HTTPException(400, "normalize must be true or false")
        content = await _read_image(request)
        answers = self._answers()

        def work() -> Response:
            return answers.embed(content, box, normalize=normalize == "true")

        return await self._in_turn(self._searches, request, work)

    async def gallery(self, request: Request) -> Response:
        """Answer with the number of gallery images, their columns, and some of them.

        With a filter, the answer counts the images that pass it, too.
        """
        answers, wanted = self._answers(), parse_number(request.query_params.get("samples", "12"))
        if wanted is None or wanted > MAX_SAMPLES:
            raise HTTPException(400, f"samples must be 0 to {MAX_SAMPLES}")
        where = request.query_params.get("where")
        found = {"gallery": answers.count, "changes": answers.changes}
        found |= {} if where is None else {"passing": answers.count_passing(where)}
        found |= {"columns": answers.column_names(), "samples": answers.samples(wanted)}
        return JSONResponse(found)

    async def gallery_image(self, request: Request) -> Response:
        """Answer with a gallery image, shrunk to one of `SIZES`, as JPEG."""
        answers = self._answers()
        number = _parse_item(request, answers)
        size = SIZES.get(request.query_params.get("size", "small"))
        if size is None:
            raise HTTPException(400, f"size must be {' or '.join(SIZES)}")
        if answers.searcher.gallery.paths is None:
            raise HTTPException(404, "this gallery has no image files")
        return await self._in_turn(self._pictures, request, lambda: answers.shrink(number, size))

    async def _in_turn(
        self, turns: Turns, request: Request, work: Callable[[], Response]
    ) -> Response:
        """Do the work of a request in a thread when it is its client's turn.

        Raises: HTTPException as `work`, or with status 503 if memory is short.
        """
        async with turns.take(client_of(request)):
            if await request.is_disconnected():
                return Response(status_code=503)  # the client is gone
            try:
                return await run_in_threadpool(work)
            except MemoryError as error:
                raise HTTPException(503, "there is too little memory for this image") from error


def _parse_item(request: Request, answers: Answers) -> int:
    """Return the gallery index in a request's path.

    Raises: HTTPException if the index does not exist, or belongs to an older gallery.
    """
    number = parse_number(request.path_params["number"])
    if request.query_params.get("changes", str(answers.changes)) != str(answers.changes):
        raise HTTPException(410, "the gallery has changed: search again")
    if number is None or not answers.has(number):
        raise HTTPException(404, "there is no such gallery image")
    return number


def _parse_top(request: Request) -> int:
    top = parse_number(request.query_params.get("top", "10"))
    if top is None or not 1 <= top <= MAX_HITS:
        raise HTTPException(400, f"top must be 1 to {MAX_HITS}")
    return top


async def _read_image(request: Request) -> bytes:
    """Return the image in a request's body."""
    if not request.headers.get("content-type", "").startswith("image/"):
        # A form of another site cannot send an image type without a CORS preflight request.
        raise HTTPException(415, f"send an image: {', '.join(FORMATS)}")
    return await read_body(request)
