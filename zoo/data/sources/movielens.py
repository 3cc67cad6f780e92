"""Layout `movielens`: GroupLens' forms, and MovieTweetings, which took one over.

    u.data, u.item, u.user                 ml-100k: tabs and pipes
    ratings.dat, movies.dat, users.dat     ml-1m, ml-10m, MovieTweetings: `::`
    ratings.csv, movies.csv                ml-latest, ml-20m, ml-25m, ml-32m

The path is their folder, the zip as it was downloaded, or the file of ratings; each file may be gzipped. Movies have
title, year and genres; users of ml-100k and ml-1m have gender, age (in ml-1m the lower end of a bracket) and
occupation.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.connection import explained
from zoo.data.sources.engine import collect, connect, literal
from zoo.data.sources.folder import files
from zoo.data.sources.lines import encoding, opened

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
OCCUPATIONS = (  # of ml-1m, by number
    *("other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service"),
    *("doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer"),
    *("retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman"),
    *("unemployed", "writer"),
)
YEAR = r"TRY_CAST(regexp_extract(title, '\((\d{4})\)\s*$', 1) AS DOUBLE) AS year"


@dataclass(frozen=True)
class Form:
    """One form: its three files (users may be none) the type of ids, and how each is read and selected."""

    ratings: str
    movies: str
    users: str | None
    ids: str
    movie_columns: tuple[str, ...]
    user_columns: tuple[str, ...]
    options: tuple[str, str]  # of read_csv, for ratings and for the other two
    movie_features: str
    user_features: str


_FLAGS = ", ".join(f"CASE WHEN g{place} = '1' THEN {literal(genre)} END" for place, genre in enumerate(GENRES))
_JOBS = ", ".join(literal(job) for job in OCCUPATIONS)
_SPLIT_GENRES = "list_filter(string_split(genres, '|'), lambda g: g NOT IN ('', '(no genres listed)')) AS genres"
_UNQUOTED = "header = false, quote = '', escape = ''"

FORMS = (
    Form(
        *("u.data", "u.item", "u.user"),
        ids="BIGINT",
        movie_columns=("item", "title", "date", "video", "url", *(f"g{place}" for place in range(len(GENRES)))),
        user_columns=("user", "age", "gender", "occupation", "zip"),
        options=(f"delim = '\t', {_UNQUOTED}", f"delim = '|', {_UNQUOTED}"),
        movie_features="title, TRY_CAST(right(date, 4) AS DOUBLE) AS year, "
        f"list_filter([{_FLAGS}], lambda g: g IS NOT NULL) AS genres",
        user_features="gender, TRY_CAST(age AS DOUBLE) AS age, occupation",
    ),
    Form(
        *("ratings.dat", "movies.dat", "users.dat"),
        ids="VARCHAR",  # of MovieTweetings they begin with zeros
        movie_columns=("item", "title", "genres"),
        user_columns=("user", "gender", "age", "occupation", "zip"),
        options=(f"delim = '::', {_UNQUOTED}", f"delim = '::', {_UNQUOTED}"),
        movie_features=f"title, {YEAR}, {_SPLIT_GENRES}",
        user_features="gender, TRY_CAST(age AS DOUBLE) AS age, "
        f"[{_JOBS}][TRY_CAST(occupation AS BIGINT) + 1] AS occupation",
    ),
    Form(
        *("ratings.csv", "movies.csv", None),
        ids="BIGINT",
        movie_columns=("item", "title", "genres"),
        user_columns=(),
        options=("delim = ',', header = true", "delim = ',', header = true, quote = '\"', escape = '\"'"),
        movie_features=f"title, {YEAR}, {_SPLIT_GENRES}",
        user_features="",
    ),
)


def read(path: str, data: DataConfig) -> Dataset:
    """Ratings as events with a score, and what the folder knows of movies and users.

    Raises:
        DataError: no file of ratings in any of the forms; a line that does not fit.
    """
    names = tuple(name for form in FORMS for name in (form.ratings, form.movies, form.users) if name)
    with files(path, names, data.cache_dir) as found:
        form, ratings = _form(Path(path), found)
        if ratings.name.removesuffix(".gz").endswith(".csv"):
            _check_header(ratings)
        connection = connect(data.cache_dir)
        name = f"{ratings.parent.name}/{ratings.name}" if Path(path).is_dir() else ratings.name
        columns = {"user": form.ids, "item": form.ids, "score": "DOUBLE", "timestamp": "BIGINT"}
        sql = f"SELECT * FROM {_csv(ratings, columns, form.options[0])}"
        movies = users = None
        if form.movies in found:
            movies = _features(connection, "item", found[form.movies], form.movie_columns, form, form.movie_features)
        if form.users in found and _has_features(found[form.users]):
            users = _features(connection, "user", found[form.users], form.user_columns, form, form.user_features)
        dataset = collect(connection, sql, name=name, users=users, items=movies, infer_ids=True)
    return replace(dataset, name=Path(path).name.removesuffix(".zip"))


def _form(path: Path, found: dict[str, Path]) -> tuple[Form, Path]:
    """The form that is there, and its file of ratings (which may have a name of its own)."""
    if path.is_file() and path.suffix != ".zip":
        suffix = Path(path.name.removesuffix(".gz")).suffix
        for form in FORMS:
            if suffix == Path(form.ratings).suffix:
                return form, path
    for form in FORMS:
        if form.ratings in found:
            return form, found[form.ratings]
    wanted = " or ".join(form.ratings for form in FORMS)
    raise DataError(f"{path}: no MovieLens; wanted a folder or zip with {wanted} (each may be gzipped)")


def _csv(path: Path, columns: dict[str, str], options: str) -> str:
    """SQL of a file with these columns and types."""
    typed = ", ".join(f"'{column}': '{kind}'" for column, kind in columns.items())
    return f"read_csv({literal(glob.escape(str(path)))}, columns = {{{typed}}}, auto_detect = false, {options})"


def _features(
    connection: duckdb.DuckDBPyConnection, side: str, path: Path, columns: tuple[str, ...], form: Form, features: str
) -> str:
    """Makes the table `{side}_table` of a file of movies or users; SQL that selects it. Of a repeated id, one row."""
    options = f"{form.options[1]}, null_padding = true, encoding = '{encoding(path)}'"
    texts = dict.fromkeys(columns, "VARCHAR")
    with explained(path.name):
        connection.execute(
            f"CREATE TEMP TABLE {side}_table AS SELECT {side}, {features} FROM {_csv(path, texts, options)}"
        )
    first = f"SELECT min(rowid) FROM {side}_table GROUP BY {side}"
    return f"SELECT * FROM {side}_table WHERE rowid IN ({first}) ORDER BY rowid"


def _check_header(path: Path) -> None:
    """Refuses other people's tables of ratings."""
    with opened(path) as file:
        header = file.readline(1000).decode("utf-8-sig", "replace").strip()
    if header.replace('"', "").lower() != "userid,movieid,rating,timestamp":
        raise DataError(
            f"{path}: line 1 is {header[:80]!r}, not userId,movieId,rating,timestamp as in MovieLens; "
            "read it with data.layout=table"
        )


def _has_features(path: Path) -> bool:
    """Whether users have more than an account: MovieTweetings' users.dat names only that."""
    with opened(path) as file:
        return len(file.readline().replace(b"::", b"|").split(b"|")) >= 5
