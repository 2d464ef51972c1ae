//! Geospatial indexes.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("geoadd",               -5, WRITE | DENYOOM, GEO, &[at(1, RW | UPDATE)]),
    keyed("geodist",              -4, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("geohash",              -2, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("geopos",               -2, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("georadius_ro",         -6, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("georadiusbymember_ro", -5, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("geosearch",            -7, READONLY,        GEO, &[at(1, RO | ACCESS)]),
    keyed("geosearchstore",       -8, WRITE | DENYOOM, GEO, &[at(1, OW | UPDATE), at(2, RO | ACCESS)]),

    keyed("georadius",            -6, WRITE | DENYOOM, GEO, STORING_RADIUS).rule(Rule::GeoStore),
    keyed("georadiusbymember",    -5, WRITE | DENYOOM, GEO, STORING_RADIUS_BY_MEMBER).rule(Rule::GeoStore),
];

const STORING_RADIUS: &[KeySpec] = &[at(1, RO | ACCESS), after("STORE", 6, OW | UPDATE), after("STOREDIST", 6, OW | UPDATE)];
const STORING_RADIUS_BY_MEMBER: &[KeySpec] =
    &[at(1, RO | ACCESS), after("STORE", 5, OW | UPDATE), after("STOREDIST", 5, OW | UPDATE)];
