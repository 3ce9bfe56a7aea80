"""The operations on notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from litestar import Controller, delete, get, patch, post, put
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.http.body import JSON, MERGE_PATCH
from app.http.etags import ETagCondition, format_etag, is_not_modified
from app.http.headers import CreatedHeaders, ETagHeaders
from app.http.operation import operation
from app.http.pagination import PageQuery
from app.http.parameters import (
    CreateHeaders,
    IfMatchHeaders,
    IfNoneMatchHeaders,
    ReplaceHeaders,
    UserPath,
)
from app.http.problems import (
    DatabaseUnavailable,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidCursor,
    PreconditionFailed,
)
from app.http.responses import APIResponse, NotModifiedResponse
from app.state import AppState
from tests.integration.notes.models import NoteRecord
from tests.integration.notes.problems import NoteNotFound
from tests.integration.notes.repository import NoteRepository
from tests.integration.notes.schemas import (
    Note,
    NoteCreate,
    NotePage,
    NotePath,
)


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
async def notes_of(state: AppState) -> AsyncIterator[NoteRepository]:
    """The repository of one request. Its transaction is committed when the block ends."""
    async with state.database.session() as session:
        yield NoteRepository(session=session)


class NoteController(Controller):
    """The operations on notes."""

    path = "/api/v1/users/{user_id:str}/notes"
    tags = ("notes",)

    @get(operation_id="listNotes")
    @operation(raises=[InvalidCursor, DatabaseUnavailable])
    async def list_notes(
        self, state: AppState, path: UserPath, query: PageQuery
    ) -> NotePageResponse:
        scope = f"{path.user_id}/notes"
        after = state.cursor_codec.decode(scope, query)
        async with notes_of(state) as notes:
            page, position = await notes.page(path.user_id, query, after)
        next_cursor = state.cursor_codec.next_cursor(scope, query, position)
        return NotePageResponse(NotePage([to_note(record) for record in page], next_cursor))

    @post(operation_id="createNote")
    @operation(raises=[IdempotencyKeyInUse, IdempotencyKeyReused, DatabaseUnavailable])
    async def create_note(
        self, state: AppState, path: UserPath, headers: CreateHeaders, data: NoteCreate
    ) -> NoteCreatedResponse:
        values = {"text": data.text}
        async with notes_of(state) as notes:
            record = await notes.create(path.user_id, values, data, headers.idempotency_key)
        return NoteCreatedResponse(record)

    @get("/{note_id:str}", operation_id="getNote")
    @operation(raises=[NoteNotFound, DatabaseUnavailable])
    async def get_note(
        self, state: AppState, path: NotePath, headers: IfNoneMatchHeaders
    ) -> NoteResponse | NotModifiedResponse:
        async with notes_of(state) as notes:
            record = await notes.find(path.user_id, path.note_id)
        etag = format_etag(record.etag)
        if is_not_modified(headers.if_none_match, etag):
            return NotModifiedResponse(etag)
        return NoteResponse(record)

    @put("/{note_id:str}", operation_id="replaceNote")
    @operation(raises=[PreconditionFailed, DatabaseUnavailable])
    async def replace_note(
        self, state: AppState, path: NotePath, headers: ReplaceHeaders, data: NoteCreate
    ) -> NoteCreatedResponse | NoteResponse:
        async with notes_of(state) as notes:
            record, is_new = await notes.put(
                path.user_id,
                path.note_id,
                {"text": data.text},
                if_match=ETagCondition.parse(headers.if_match),
                must_not_exist=headers.if_none_match is not None,
            )
        return NoteCreatedResponse(record) if is_new else NoteResponse(record)

    @patch("/{note_id:str}", operation_id="updateNote")
    @operation(raises=[NoteNotFound, PreconditionFailed, DatabaseUnavailable])
    async def update_note(
        self,
        state: AppState,
        path: NotePath,
        headers: IfMatchHeaders,
        data: Annotated[NoteCreate, MERGE_PATCH, JSON],
    ) -> NoteResponse:
        if_match = ETagCondition.parse(headers.if_match)
        async with notes_of(state) as notes:
            record = await notes.change(path.user_id, path.note_id, {"text": data.text}, if_match)
        return NoteResponse(record)

    @delete("/{note_id:str}", operation_id="deleteNote")
    @operation(raises=[NoteNotFound, PreconditionFailed, DatabaseUnavailable])
    async def delete_note(self, state: AppState, path: NotePath, headers: IfMatchHeaders) -> None:
        if_match = ETagCondition.parse(headers.if_match)
        async with notes_of(state) as notes:
            await notes.remove(path.user_id, path.note_id, if_match)
