"""The operations on notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Controller, Request, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.http.body import JSON, MERGE_PATCH, JSONBody
from app.http.etags import ETagCondition, format_etag, is_not_modified
from app.http.headers import CreatedHeaders, ETagHeaders
from app.http.pagination import PageQuery
from app.http.parameters import (
    IfMatchHeaders,
    IfNoneMatchHeaders,
    NoParameters,
    Parameters,
    UserPath,
)
from app.http.responses import APIResponse, NotModifiedResponse
from app.state import app_state
from tests.integration.notes.models import NoteRecord
from tests.integration.notes.repository import NoteRepository
from tests.integration.notes.schemas import (
    CreateNoteHeaders,
    Note,
    NoteCreate,
    NotePage,
    NotePath,
    ReplaceNoteHeaders,
)

LIST_NOTES = Parameters(UserPath, PageQuery, NoParameters)
CREATE_NOTE = Parameters(UserPath, NoParameters, CreateNoteHeaders)
GET_NOTE = Parameters(NotePath, NoParameters, IfNoneMatchHeaders)
REPLACE_NOTE = Parameters(NotePath, NoParameters, ReplaceNoteHeaders)
CHANGE_NOTE = Parameters(NotePath, NoParameters, IfMatchHeaders)
CREATE_BODY = JSONBody(NoteCreate, JSON)
PATCH_BODY = JSONBody(NoteCreate, MERGE_PATCH, JSON)

AnyRequest = Request[Any, Any, Any]


class NotePageResponse(APIResponse[NotePage]):
    """A page of notes."""

    status = HTTP_200_OK


class NoteResponse(APIResponse[Note]):
    """The note as it is now."""

    status = HTTP_200_OK
    headers_type = ETagHeaders

    def __init__(self, record: NoteRecord) -> None:
        note = to_note(record)
        super().__init__(note, ETagHeaders(note.etag))


class NoteCreatedResponse(APIResponse[Note]):
    """The note is new."""

    status = HTTP_201_CREATED
    headers_type = CreatedHeaders

    def __init__(self, record: NoteRecord) -> None:
        note = to_note(record)
        location = f"/api/v1/users/{note.user_id}/notes/{note.id}"
        super().__init__(note, CreatedHeaders(note.etag, location))


def to_note(record: NoteRecord) -> Note:
    """The representation of a row."""
    return Note(
        id=record.id,
        user_id=record.user_id,
        text=record.text,
        created_at=record.created_at,
        updated_at=record.updated_at,
        etag=format_etag(record.etag),
    )


@asynccontextmanager
async def notes_of(request: AnyRequest) -> AsyncIterator[NoteRepository]:
    """The repository of one request. Its transaction is committed when the block ends."""
    async with app_state(request).database.session() as session:
        yield NoteRepository(session=session)


class NoteController(Controller):
    """The operations on notes."""

    path = "/api/v1/users/{user_id:str}/notes"
    tags = ("notes",)

    @get(operation_id="listNotes")
    async def list_notes(self, request: AnyRequest) -> NotePageResponse:
        path, query, _ = LIST_NOTES.parse(request)
        codec = app_state(request).cursor_codec
        scope = f"{path.user_id}/notes"
        after = codec.decode(scope, query)
        async with notes_of(request) as notes:
            page, position = await notes.page(path.user_id, query, after)
        next_cursor = None if position is None else codec.encode(scope, query, position)
        return NotePageResponse(NotePage([to_note(record) for record in page], next_cursor))

    @post(operation_id="createNote")
    async def create_note(self, request: AnyRequest) -> NoteCreatedResponse:
        path, _, headers = CREATE_NOTE.parse(request)
        data = await CREATE_BODY.parse(request)
        async with notes_of(request) as notes:
            record = await notes.create(
                path.user_id, {"text": data.text}, data, headers.idempotency_key
            )
        return NoteCreatedResponse(record)

    @get("/{note_id:str}", operation_id="getNote")
    async def get_note(self, request: AnyRequest) -> NoteResponse | NotModifiedResponse:
        path, _, headers = GET_NOTE.parse(request)
        async with notes_of(request) as notes:
            record = await notes.find(path.user_id, path.note_id)
        etag = format_etag(record.etag)
        if is_not_modified(headers.if_none_match, etag):
            return NotModifiedResponse(etag)
        return NoteResponse(record)

    @put("/{note_id:str}", operation_id="replaceNote")
    async def replace_note(self, request: AnyRequest) -> NoteCreatedResponse | NoteResponse:
        path, _, headers = REPLACE_NOTE.parse(request)
        data = await CREATE_BODY.parse(request)
        async with notes_of(request) as notes:
            record, is_new = await notes.put(
                path.user_id,
                path.note_id,
                {"text": data.text},
                if_match=ETagCondition.parse(headers.if_match),
                must_not_exist=headers.if_none_match is not None,
            )
        return NoteCreatedResponse(record) if is_new else NoteResponse(record)

    @patch("/{note_id:str}", operation_id="updateNote")
    async def update_note(self, request: AnyRequest) -> NoteResponse:
        path, _, headers = CHANGE_NOTE.parse(request)
        data = await PATCH_BODY.parse(request)
        if_match = ETagCondition.parse(headers.if_match)
        async with notes_of(request) as notes:
            record = await notes.change(path.user_id, path.note_id, {"text": data.text}, if_match)
        return NoteResponse(record)

    @delete("/{note_id:str}", operation_id="deleteNote")
    async def delete_note(self, request: AnyRequest) -> None:
        path, _, headers = CHANGE_NOTE.parse(request)
        if_match = ETagCondition.parse(headers.if_match)
        async with notes_of(request) as notes:
            await notes.remove(path.user_id, path.note_id, if_match)
