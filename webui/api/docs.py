"""/openapi.json and /docs: the API described for programs and for people. The page has no script and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from webui.api.answers import HEADERS, Answer
from webui.jobs.service import PRIORITIES

if TYPE_CHECKING:
    from fastapi import FastAPI

    from webui.jobs.types import JobKind

VERSION = "1"
ABOUT = (
    "Upload files, post a job with their ids, watch it, fetch what it made. Every refusal is JSON with `error` and "
    "`type`. Where the studio has a password, use Basic authentication with the same name, or a bearer token."
)
COMPONENTS = "#/components/schemas/{model}"

UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "minLength": 1}},
            }
        },
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["name", "base64"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string", "description": "The file's name; its suffix tells its type."},
                            "base64": {"type": "string", "format": "byte", "minLength": 4},
                        },
                    },
                    {
                        "type": "object",
                        "required": ["url"],
                        "additionalProperties": False,
                        "properties": {
                            "url": {
                                "type": "string",
                                "format": "uri",
                                "description": "Of a file on the public internet, by http or https. Only where the "
                                "studio's owner has set fetch_urls.",
                            },
                        },
                    },
                ]
            }
        },
    },
}

PRIORITY = {
    "type": "integer",
    "minimum": PRIORITIES[0],
    "maximum": PRIORITIES[-1],
    "default": 0,
    "description": "Higher goes first; among equals the older.",
}
PRIORITY_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["priority"],
                "additionalProperties": False,
                "properties": {"priority": PRIORITY},
            }
        }
    },
}

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#292524;background:#fafaf9}
h1,h2,a{color:#0f766e}section{border-top:1px solid #d6d3d1;padding:.5rem 0}code,pre{font-family:ui-monospace,monospace}
pre{overflow:auto;background:#f5f5f4;padding:.75rem;font-size:.85rem}b{color:#0f766e;margin-right:.5rem}
h3 code,li code{overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{color:#e7e5e4;background:#1c1917}pre{background:#292524}h1,h2,a,b{color:#5eead4}}
"""
PRIVATE = {**HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def add_to(app: FastAPI, kinds: Mapping[str, JobKind]) -> None:
    """Serve both descriptions. Call it when all routes are there."""
    described = partial(describe, app, kinds)

    async def openapi() -> Answer:
        return Answer(described())

    async def page() -> HTMLResponse:
        return HTMLResponse(render(described()), headers=PRIVATE)

    app.openapi = described
    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.add_api_route("/docs", page, include_in_schema=False)


def describe(app: FastAPI, kinds: Mapping[str, JobKind]) -> dict[str, Any]:
    """The OpenAPI description of the routes under /api, with a schema for each kind's request."""
    spec = get_openapi(title=app.title, version=VERSION, description=ABOUT, routes=app.routes)
    components = spec.setdefault("components", {})
    for kind in kinds.values():
        schema = kind.request.model_json_schema(ref_template=COMPONENTS)
        components.setdefault("schemas", {}).update({**schema.pop("$defs", {}), _request_name(kind): schema})
    components["securitySchemes"] = {
        "basic": {"type": "http", "scheme": "basic"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    # The empty one says that a studio without a password asks for none.
    spec["security"] = [{}, {"basic": []}, {"bearer": []}]
    return spec


def job_body(kinds: Mapping[str, JobKind]) -> dict[str, Any]:
    """The body of a posted job: one form for each kind."""
    forms = [
        {
            "type": "object",
            "title": kind.title,
            "required": ["kind", "request"],
            "additionalProperties": False,
            "properties": {
                "kind": {"type": "string", "enum": [kind.name]},
                "request": {"$ref": COMPONENTS.format(model=_request_name(kind))},
                "priority": PRIORITY,
            },
        }
        for kind in kinds.values()
    ]
    return {"required": True, "content": {"application/json": {"schema": {"oneOf": forms} if forms else {}}}}


def render(spec: Mapping[str, Any]) -> str:
    """The description as a page."""
    sections = [
        _operation(method, path, operation) for path, methods in spec["paths"].items() for method, operation in methods.items()
    ]
    schemas = [
        f"<details><summary><code>{escape(name)}</code></summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in spec["components"]["schemas"].items()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(spec["info"]["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>Galatea: HTTP API</h1>'
        f'<p>{escape(ABOUT.replace("`", ""))} For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}<h2>Schemas</h2>{''.join(schemas)}</html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(one['name'])}</code> ({escape(one['in'])}): <code>{_pretty(one['schema'], None)}</code></li>"
        for one in operation.get("parameters", ())
    )
    details = {"Body": operation.get("requestBody"), "Answers": operation["responses"]}
    folded = "".join(
        f"<details><summary>{name}</summary><pre>{_pretty(value)}</pre></details>" for name, value in details.items() if value
    )
    about = escape(operation.get("description", ""))
    head = f"<h3><b>{method.upper()}</b><code>{escape(path)}</code></h3><p>{about}</p>"
    return f"<section>{head}{f'<ul>{parameters}</ul>' if parameters else ''}{folded}</section>"


def _pretty(value: Any, indent: int | None = 2) -> str:
    return escape(json.dumps(value, indent=indent, ensure_ascii=False))


def _request_name(kind: JobKind) -> str:
    return f"{kind.name}-request"
