"""The description of the endpoints as an OpenAPI 3.1 document."""

from typing import Any

from batnet_jax.inference.where import EXAMPLE, MAX_CHARACTERS
from batnet_jax.modes.serve.endpoints import MAX_HITS, MAX_SAMPLES, SIZES
from batnet_jax.modes.serve.uploads import FORMATS, MAX_BYTES, MAX_PIXELS
from batnet_jax.version import VERSION

NUMBER, TEXT = {"type": "number"}, {"type": "string"}
INTEGER = {"type": "integer", "minimum": 0}
CHANGES = {**INTEGER, "description": "How often the gallery has been replaced."}
VERDICT = {
    "type": ["string", "null"],
    "enum": ["same", "unsure", "different", None],
    "description": "What the thresholds say about the score; null if the run has none.",
}
NAME = {"type": ["string", "null"], "description": "The person, if the run knows people by name."}
SCHEMAS: dict[str, Any] = {
    "Hit": {
        "type": "object",
        "required": ["rank", "score", "index", "path", "verdict"],
        "properties": {
            "rank": {"type": "integer", "minimum": 1},
            "score": {**NUMBER, "description": "The cosine of the features: identical images, 1."},
            "index": {**INTEGER, "description": "The number of the gallery image."},
            "path": TEXT,
            "name": NAME,
            "verdict": VERDICT,
            "gallery": {**TEXT, "description": "The image's gallery, if there are several."},
            "row": {**INTEGER, "description": "The image's row in that gallery."},
            "columns": {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
                "description": "What the gallery keeps about the image, by name, if it does; "
                "null for a missing number.",
            },
        },
    },
    "RankedList": {
        "type": "object",
        "required": ["hits", "gallery", "changes", "seconds", "note"],
        "properties": {
            "hits": {"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
            "gallery": {**INTEGER, "description": "Images in the gallery."},
            "changes": CHANGES,
            "accepted": {
                **INTEGER,
                "description": "With --accept: the number of hits that reach the threshold. Only "
                "these are listed.",
            },
            "best": {
                "type": ["number", "null"],
                "description": "With --accept: the score of the best image, listed or not.",
            },
            "seconds": NUMBER,
            "note": {**TEXT, "description": "What was done to transparency; mostly empty."},
        },
    },
    "Feature": {
        "type": "object",
        "required": ["feature", "dim", "step", "note"],
        "properties": {
            "feature": {"type": "array", "items": NUMBER},
            "dim": INTEGER,
            "step": INTEGER,
            "note": TEXT,
        },
    },
    "Gallery": {
        "type": "object",
        "required": ["gallery", "changes", "columns", "samples"],
        "properties": {
            "gallery": INTEGER,
            "changes": CHANGES,
            "passing": {
                **INTEGER,
                "description": "The images that pass the filter, if one is asked.",
            },
            "columns": {
                "type": "array",
                "items": TEXT,
                "description": "The names that a filter can use.",
            },
            "samples": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["index", "path"],
                    "properties": {"index": INTEGER, "path": TEXT, "name": NAME},
                },
            },
        },
    },
    "Health": {
        "type": "object",
        "required": [
            "status",
            "version",
            "gallery",
            "changes",
            "problem",
            "model",
            "bands",
            "accept",
        ],
        "properties": {
            "status": {"const": "ok"},
            "version": TEXT,
            "gallery": INTEGER,
            "changes": CHANGES,
            "problem": {
                "type": ["string", "null"],
                "description": "Why a new gallery file is not in use; null if the newest is.",
            },
            "model": {
                "type": "object",
                "required": ["name", "step", "dim", "input"],
                "properties": {"name": TEXT, "step": INTEGER, "dim": INTEGER, "input": TEXT},
            },
            "bands": {
                "type": ["object", "null"],
                "description": "Scores from `same` on count as one identity, below `different` as "
                "two; `rate` of the pairs of two identities reach `same`.",
                "required": ["same", "different", "rate"],
                "properties": {"same": NUMBER, "different": NUMBER, "rate": NUMBER},
            },
            "accept": {
                "type": ["number", "null"],
                "description": "The score below which hits are left out, by --accept.",
            },
        },
    },
    "Error": {"type": "object", "required": ["error"], "properties": {"error": TEXT}},
}
TOP = {
    "name": "top",
    "in": "query",
    "description": "The length of the list.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_HITS, "default": 10},
}
BOX = {
    "name": "box",
    "in": "query",
    "description": "x0,y0,x1,y1 in pixels of the upright image: search this part alone.",
    "schema": {**TEXT, "pattern": r"^[0-9.]+,[0-9.]+,[0-9.]+,[0-9.]+$"},
}
WHERE = {
    "name": "where",
    "in": "query",
    "description": f"Search only images whose columns pass this filter, as in {EXAMPLE}.",
    "schema": {**TEXT, "maxLength": MAX_CHARACTERS},
}
ITEM = {"name": "number", "in": "path", "required": True, "schema": INTEGER}
OF = {
    "name": "changes",
    "in": "query",
    "description": "Of the answer that gave the number; 410 if the gallery has changed since.",
    "schema": INTEGER,
}
BODY = {
    "required": True,
    "description": f"{', '.join(FORMATS)}; at most {MAX_BYTES >> 20} MB and "
    f"{MAX_PIXELS // 10**6} megapixels.",
    "content": {
        f"image/{name.lower()}": {"schema": {**TEXT, "format": "binary"}} for name in FORMATS
    },
}


def describe_api() -> dict[str, Any]:
    """Return the document; `GET /openapi.json` answers with it."""
    normalize = {
        "name": "normalize",
        "in": "query",
        "description": "Divide the feature by its length, so that inner products are cosines.",
        "schema": {"type": "boolean", "default": False},
    }
    samples = {
        "name": "samples",
        "in": "query",
        "schema": {**INTEGER, "maximum": MAX_SAMPLES, "default": 12},
    }
    size = {"name": "size", "in": "query", "schema": {"enum": list(SIZES), "default": "small"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "batnet serve", "version": VERSION},
        "paths": {
            "/search": {
                "post": _call(
                    "Rank the gallery for an image", "RankedList", TOP, BOX, WHERE, body=True
                )
            },
            "/embed": {"post": _call("Embed an image", "Feature", normalize, BOX, body=True)},
            "/health": {"get": _call("Describe the model and the gallery", "Health")},
            "/gallery": {
                "get": _call("Count the gallery; name some images", "Gallery", samples, WHERE)
            },
            "/gallery/{number}": {"get": _picture(size)},
            "/gallery/{number}/similar": {
                "get": _call(
                    "Rank the gallery for one of its images", "RankedList", ITEM, OF, TOP, WHERE
                )
            },
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _call(summary: str, schema: str, *parameters: Any, body: bool = False) -> dict[str, Any]:
    """Describe an endpoint that answers with JSON."""
    answer = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    found = {"summary": summary, "responses": _responses(answer)}
    found |= {"parameters": list(parameters)} if parameters else {}
    return found | ({"requestBody": BODY} if body else {})


def _picture(size: dict[str, Any]) -> dict[str, Any]:
    """Describe the endpoint of gallery images."""
    answer = {"image/jpeg": {"schema": {**TEXT, "format": "binary"}}}
    return {
        "summary": "Show a gallery image",
        "parameters": [ITEM, OF, size],
        "responses": _responses(answer),
    }


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer.", "content": content},
        "default": {"description": "What is wrong, and the way out.", "content": error},
    }
