"""Which column of a table is the user, the item, the time: by their usual names, or as the user says."""

from __future__ import annotations

import difflib
import re

from config import Columns
from zoo.data.dataset import DataError

# Usual names, the most telling first, without case, blanks and underscores: `Customer ID` is `customerid`.
USUAL_NAMES = {
    "user": (
        *("user", "userid", "uid", "username", "usr", "client", "clientid", "customer", "customerid", "member"),
        *("memberid", "visitor", "visitorid", "account", "accountid", "buyer", "buyerid", "reviewer", "reviewerid"),
        *("player", "playerid", "person", "personid", "household", "householdkey", "householdid", "session"),
        *("sessionid",),
    ),
    "item": (
        *("item", "itemid", "iid", "sku", "skuid", "product", "productid", "movie", "movieid", "asin", "parentasin"),
        *("article", "articleid", "track", "trackid", "song", "songid", "artist", "artistid", "book", "bookid", "isbn"),
        *("game", "gameid", "video", "videoid", "news", "newsid", "goods", "goodsid", "listing", "listingid"),
        *("business", "businessid", "content", "contentid", "stockcode", "aid"),
    ),
    "timestamp": (
        *("timestamp", "timestampms", "timestamps", "time", "datetime", "date", "ts", "when", "eventtime"),
        *("eventtimestamp", "eventdate", "unixtime", "unixtimestamp", "unixreviewtime", "reviewtime", "createdat"),
        *("created", "purchasedate", "purchasetime", "orderdate", "orderedat", "invoicedate", "transactiondate"),
        *("tdat",),
    ),
    "score": ("score", "rating", "stars", "star", "overall", "reviewrating", "starrating"),
    "action": (
        *("action", "actiontype", "event", "eventtype", "eventname", "behavior", "behaviortype", "behaviour"),
        *("behaviourtype", "interaction", "interactiontype", "activity", "activitytype"),
    ),
    "domain": ("domain", "domainid", "marketplace"),
    "price": ("price", "unitprice", "itemprice", "saleprice"),
}


def recognise(
    found: list[str], given: Columns, name: str, *, wanted: tuple[str, ...] = ("user", "item")
) -> dict[str, str]:
    """{role: column} for every role that a column of the table plays.

    Args:
        found: names of the columns.
        given: names that the user gave; they must be there.
        name: what messages call the table.
        wanted: roles that must be found.

    Raises:
        DataError: a column that was named, or that is needed, is not there; with the nearest name.
    """
    roles: dict[str, str] = {}
    for role, usual in USUAL_NAMES.items():
        asked = getattr(given, role)
        if asked is not None:
            if asked not in found:
                raise DataError(
                    f"{name}: no column {asked!r} (data.columns.{role}){_nearest(asked, found)}; it has {listed(found)}"
                )
            roles[role] = asked
            continue
        # RecBole's atomic files write a type behind the name: `user_id:token`, `rating:float`.
        names = {column: re.sub(r":(token|float)(_seq)?$", "", column.lower()) for column in reversed(found)}
        plain = {re.sub(r"[\W_]+", "", bare): column for column, bare in names.items()}
        match = next((plain[usual_name] for usual_name in usual if usual_name in plain), None)
        if match is not None and match not in roles.values():
            roles[role] = match
    for role in wanted:
        if role not in roles:
            raise DataError(
                f"{name}: no {role} column among {listed(found)}; name it: data.columns.{role}=COLUMN "
                "(without a header line: data.layout=pairs, sequences or sessions)"
            )
    return roles


def listed(names: list[str]) -> str:
    """The first names, for a message."""
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _nearest(name: str, found: list[str]) -> str:
    lower = {column.lower(): column for column in found}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""
