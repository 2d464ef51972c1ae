//! `INFO` of many nodes as one: what can be added up is, of what is a state the worst is taken, and what is a ratio is worked out anew.
//!
//! Only the sections that redis itself has are merged. What a module writes of itself nobody else can add up.

use std::{fmt, fmt::Write};

/// The sections that are merged, in redis's order.
pub const SECTIONS: [&str; 9] =
    ["Memory", "Persistence", "Stats", "CPU", "Modules", "Commandstats", "Errorstats", "Latencystats", "Keyspace"];

/// What one node says, or what was made of all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Info {
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq)]
struct Section {
    name: String,
    /// Names and values in order. Only the lines of the section `Modules` have names that are not their own.
    fields: Vec<(String, String)>,
}

/// One node's answer.
#[derive(Debug, Clone)]
pub struct OfNode {
    /// The host that it runs on: what it says of the host counts once.
    pub host: String,
    /// What it says.
    pub info: Info,
}

/// How the nodes' values of a field become one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// Numbers are added up; of texts the first that is not `ok` is taken.
    Sum,
    Max,
    Min,
    /// The sum, or 0 where that stands for no limit at one of them.
    Limit,
    /// The sum over hosts, each with the greatest value of its nodes.
    OfHosts,
    /// The quotient of two other fields, the second less a third.
    Ratio {
        of: &'static str,
        to: &'static str,
        less: &'static str,
        percent: bool,
    },
    /// Another field for people.
    Human(&'static str),
}

/// All fields that are not simply added up.
const FIELDS: &[(&str, How)] = &[
    ("used_memory_human", How::Human("used_memory")),
    ("used_memory_rss_human", How::Human("used_memory_rss")),
    ("used_memory_peak_human", How::Human("used_memory_peak")),
    ("used_memory_peak_perc", How::Ratio { of: "used_memory", to: "used_memory_peak", less: "", percent: true }),
    // Redis leaves out of the whole what it uses at the start, which is not in INFO as a sum of two; near enough.
    (
        "used_memory_dataset_perc",
        How::Ratio { of: "used_memory_dataset", to: "used_memory", less: "used_memory_startup", percent: true },
    ),
    ("total_system_memory", How::OfHosts),
    ("total_system_memory_human", How::Human("total_system_memory")),
    ("used_memory_lua_human", How::Human("used_memory_lua")),
    ("used_memory_vm_total_human", How::Human("used_memory_vm_total")),
    ("used_memory_scripts_human", How::Human("used_memory_scripts")),
    // All nodes are handed the same ones.
    ("number_of_cached_scripts", How::Max),
    ("number_of_functions", How::Max),
    ("number_of_libraries", How::Max),
    ("maxmemory", How::Limit),
    ("maxmemory_human", How::Human("maxmemory")),
    ("allocator_frag_ratio", How::Ratio { of: "allocator_active", to: "allocator_allocated", less: "", percent: false }),
    ("allocator_rss_ratio", How::Ratio { of: "allocator_resident", to: "allocator_active", less: "", percent: false }),
    ("rss_overhead_ratio", How::Ratio { of: "used_memory_rss", to: "allocator_resident", less: "", percent: false }),
    ("mem_fragmentation_ratio", How::Ratio { of: "used_memory_rss", to: "used_memory", less: "", percent: false }),
    ("active_defrag_running", How::Max),
    ("loading", How::Max),
    ("async_loading", How::Max),
    ("current_cow_size_age", How::Max),
    ("current_fork_perc", How::Min),
    ("rdb_bgsave_in_progress", How::Max),
    // The moment since when nothing is unsaved anywhere.
    ("rdb_last_save_time", How::Min),
    ("rdb_last_bgsave_time_sec", How::Max),
    ("rdb_current_bgsave_time_sec", How::Max),
    ("aof_enabled", How::Max),
    ("aof_rewrite_in_progress", How::Max),
    ("aof_rewrite_scheduled", How::Max),
    ("aof_last_rewrite_time_sec", How::Max),
    ("aof_current_rewrite_time_sec", How::Max),
    ("module_fork_in_progress", How::Max),
    ("expired_stale_perc", How::Max),
    ("current_eviction_exceeded_time", How::Max),
    ("current_active_defrag_time", How::Max),
    // A pattern is listened to on every node.
    ("pubsub_patterns", How::Max),
    ("latest_fork_usec", How::Max),
];

impl Info {
    /// Reads the text of `INFO`. Lines that make no sense are left out.
    pub fn parse(text: &str) -> Self {
        let mut info = Info::default();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix("# ") {
                info.sections.push(Section { name: name.to_owned(), fields: Vec::new() });
            } else if let (Some((name, value)), Some(section)) = (line.split_once(':'), info.sections.last_mut()) {
                section.fields.push((name.to_owned(), value.to_owned()));
            }
        }
        info
    }

    /// One of all nodes' answers. With `guests`, a database from 8 on holds keys of the client's database 8 below it.
    pub fn merge(nodes: &[OfNode], guests: bool) -> Self {
        let merged = SECTIONS.iter().filter_map(|name| {
            let of: Vec<_> =
                nodes.iter().filter_map(|node| Some((node.host.as_str(), &node.info.section(name)?.fields[..]))).collect();
            if of.is_empty() {
                return None;
            }
            let fields = match *name {
                "Modules" => every_line_once(&of),
                "Commandstats" | "Errorstats" | "Latencystats" => merge_lists(&of, str::to_owned),
                "Keyspace" => merge_lists(&of, |db| if guests { client_database(db) } else { db.to_owned() }),
                _ => merge_fields(&of),
            };
            Some(Section { name: (*name).to_owned(), fields })
        });
        Info { sections: merged.collect() }
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name.eq_ignore_ascii_case(name))
    }

    /// A field's value.
    pub fn get(&self, section: &str, field: &str) -> Option<&str> {
        let section = self.section(section)?;
        section.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str())
    }

    /// Sets a field in place, or puts it last where the section lacks it. Nothing happens without such a section.
    pub fn set(&mut self, section: &str, field: &str, value: impl fmt::Display) {
        let Some(section) = self.sections.iter_mut().find(|of| of.name.eq_ignore_ascii_case(section)) else { return };
        match section.fields.iter_mut().find(|(name, _)| name == field) {
            Some((_, old)) => *old = value.to_string(),
            None => section.fields.push((field.to_owned(), value.to_string())),
        }
    }

    /// Writes one section, if there is such; returns whether.
    pub fn write(&self, section: &str, out: &mut String) -> bool {
        let Some(section) = self.section(section) else { return false };
        // Writing to a String cannot fail.
        let _ = write!(out, "# {}\r\n", section.name);
        for (name, value) in &section.fields {
            let _ = write!(out, "{name}:{value}\r\n");
        }
        true
    }
}

/// A section of each node, with the node's host.
type OfNodes<'a> = [(&'a str, &'a [(String, String)])];

/// The names of all fields, in the order in which they are first met.
fn names<'a>(nodes: &OfNodes<'a>) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (_, fields) in nodes {
        names.extend(fields.iter().map(|(name, _)| name.as_str()).filter(|name| seen.insert(*name)));
    }
    names
}

fn values<'a>(nodes: &'a OfNodes<'a>, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    nodes.iter().flat_map(move |(host, fields)| {
        fields.iter().filter(move |(of, _)| of == name).map(move |(_, value)| (*host, value.as_str()))
    })
}

fn merge_fields(nodes: &OfNodes<'_>) -> Vec<(String, String)> {
    let how = |name: &str| FIELDS.iter().find(|(of, _)| *of == name).map_or(How::Sum, |(_, how)| *how);
    let mut merged: Vec<(String, String)> = names(nodes)
        .into_iter()
        .map(|name| {
            let values = values(nodes, name);
            let value = match how(name) {
                How::Max => extreme(values.map(|(_, value)| value), |new, old| new > old),
                How::Min => extreme(values.map(|(_, value)| value), |new, old| new < old),
                How::Limit if values.clone().any(|(_, value)| value == "0") => "0".to_owned(),
                How::OfHosts => of_hosts(values),
                // Ratios wait for the sums.
                How::Sum | How::Limit | How::Ratio { .. } | How::Human(_) => sum(values.map(|(_, value)| value)),
            };
            (name.to_owned(), value)
        })
        .collect();
    for at in 0..merged.len() {
        let number = |name: &str| {
            merged.iter().find(|(of, _)| of == name).and_then(|(_, value)| value.parse::<f64>().ok()).unwrap_or_default()
        };
        let value = match how(&merged[at].0) {
            How::Human(of) => human(number(of)),
            How::Ratio { of, to, less, percent } => {
                let whole = number(to) - number(less);
                let ratio = if whole > 0.0 { number(of) / whole } else { 0.0 };
                if percent { format!("{:.2}%", ratio * 100.0) } else { format!("{ratio:.2}") }
            }
            _ => continue,
        };
        merged[at].1 = value;
    }
    merged
}

/// The sum of numbers, with as many decimals as the first has; of texts the first that is not `ok`.
fn sum<'a>(values: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut values = values.peekable();
    let first = values.peek().copied().unwrap_or_default();
    if let Some(sum) = values.clone().map(|value| value.parse::<i128>().ok()).sum::<Option<i128>>() {
        return sum.to_string();
    }
    if let Some(sum) = values.clone().map(|value| value.parse::<f64>().ok()).sum::<Option<f64>>() {
        let decimals = first.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        return format!("{sum:.decimals$}");
    }
    values.find(|value| *value != "ok").unwrap_or(first).to_owned()
}

fn extreme<'a>(values: impl Iterator<Item = &'a str>, better: impl Fn(f64, f64) -> bool) -> String {
    let number = |value: &str| value.parse::<f64>().unwrap_or_default();
    values.reduce(|old, new| if better(number(new), number(old)) { new } else { old }).unwrap_or_default().to_owned()
}

fn of_hosts<'a>(values: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hosts = std::collections::BTreeMap::<&str, u64>::new();
    for (host, value) in values {
        let most = hosts.entry(host).or_default();
        *most = (*most).max(value.parse().unwrap_or_default());
    }
    hosts.values().fold(0_u64, |sum, value| sum.saturating_add(*value)).to_string()
}

/// Bytes as redis shows them to people.
fn human(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024.0 {
        return format!("{bytes}B");
    }
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

fn every_line_once(nodes: &OfNodes<'_>) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = nodes.iter().flat_map(|(_, fields)| fields.iter().cloned()).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// The client's database of a node's: `db9` holds keys of `db1`.
fn client_database(db: &str) -> String {
    match db.strip_prefix("db").and_then(|number| number.parse::<u8>().ok()) {
        Some(number @ 8..) => format!("db{}", number - 8),
        _ => db.to_owned(),
    }
}

/// The numbers of a list by their names, each with how many decimals it is shown with.
type Numbers<'a> = Vec<(&'a str, f64, usize)>;

/// Fields whose values are lists of numbers (`calls=1,usec=2`), each added up by its name; `rename` says under which name.
fn merge_lists(nodes: &OfNodes<'_>, rename: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let mut merged: Vec<(String, Numbers<'_>)> = Vec::new();
    let mut places = std::collections::HashMap::<String, usize>::new();
    for (name, value) in nodes.iter().flat_map(|(_, fields)| fields.iter()) {
        let name = rename(name);
        let place = *places.entry(name.clone()).or_insert_with(|| {
            merged.push((name, Vec::new()));
            merged.len() - 1
        });
        let list = value.split(',').filter_map(|part| part.split_once('='));
        let numbers: Vec<_> = list.filter_map(|(part, text)| Some((part, text.parse::<f64>().ok()?, decimals(text)))).collect();
        add_list(&mut merged[place].1, &numbers);
    }
    // Databases by their numbers: guests come out of order.
    if merged.iter().all(|(name, _)| name.starts_with("db")) {
        merged.sort_by_key(|(name, _)| name[2..].parse::<u32>().unwrap_or(u32::MAX));
    }
    let shown = |list: Numbers<'_>| {
        list.iter().map(|(part, number, decimals)| format!("{part}={number:.decimals$}")).collect::<Vec<_>>().join(",")
    };
    merged.into_iter().map(|(name, list)| (name, shown(list))).collect()
}

fn decimals(number: &str) -> usize {
    number.split_once('.').map_or(0, |(_, decimals)| decimals.len())
}

fn add_list<'a>(sums: &mut Numbers<'a>, list: &[(&'a str, f64, usize)]) {
    let of = |list: &[(&str, f64, usize)], name: &str| {
        list.iter().find(|(part, ..)| *part == name).map_or(0.0, |(_, number, _)| *number)
    };
    let (expires_before, expires) = (of(sums, "expires"), of(list, "expires"));
    for &(part, number, decimals) in list {
        let Some((_, sum, _)) = sums.iter_mut().find(|(of, ..)| *of == part) else {
            sums.push((part, number, decimals));
            continue;
        };
        *sum = match part {
            // Of the keys that expire.
            "avg_ttl" if expires_before + expires > 0.0 => {
                ((*sum * expires_before + number * expires) / (expires_before + expires)).round()
            }
            // Percentiles cannot be added up: the worst node's.
            _ if part.starts_with('p') && part[1..].parse::<f64>().is_ok() => sum.max(number),
            _ => *sum + number,
        };
    }
    let (calls, usec) = (of(sums, "calls"), of(sums, "usec"));
    if let Some((_, per_call, _)) = sums.iter_mut().find(|(part, ..)| *part == "usec_per_call") {
        *per_call = if calls > 0.0 { usec / calls } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(hosts: &[&str], texts: &[&str], guests: bool) -> Info {
        let node = |(host, text): (&&str, &&str)| OfNode { host: (*host).to_owned(), info: Info::parse(text) };
        Info::merge(&hosts.iter().zip(texts).map(node).collect::<Vec<_>>(), guests)
    }

    /// Merges two values of a field, of two hosts.
    fn check(section: &str, field: &str, values: [&str; 2], expect: &str) {
        let texts = values.map(|value| format!("# {section}\r\n{field}:{value}\r\n"));
        let info = merge(&["a", "b"], &[&texts[0], &texts[1]], true);
        assert_eq!(info.get(section, field), Some(expect), "{field} {values:?}");
    }

    #[test]
    fn fields() {
        check("Memory", "used_memory", ["1000", "24"], "1024");
        check("Memory", "maxmemory", ["100", "24"], "124");
        check("Memory", "maxmemory", ["100", "0"], "0");
        check("Memory", "mem_allocator", ["jemalloc-5.3.0", "jemalloc-5.3.0"], "jemalloc-5.3.0");
        check("Memory", "total_system_memory", ["100", "200"], "300");
        check("Persistence", "rdb_last_bgsave_status", ["ok", "ok"], "ok");
        check("Persistence", "rdb_last_bgsave_status", ["ok", "err"], "err");
        check("Persistence", "rdb_last_bgsave_time_sec", ["-1", "-1"], "-1");
        check("Persistence", "rdb_last_save_time", ["200", "100"], "100");
        check("CPU", "used_cpu_sys", ["0.250000", "1.500000"], "1.750000");
        check("Stats", "instantaneous_input_kbps", ["0.25", "1.50"], "1.75");
        check("Stats", "latest_fork_usec", ["7", "3"], "7");
        check(
            "Commandstats",
            "cmdstat_get",
            ["calls=1,usec=3,usec_per_call=3.00,failed_calls=0", "calls=3,usec=6,usec_per_call=2.00,failed_calls=1"],
            "calls=4,usec=9,usec_per_call=2.25,failed_calls=1",
        );
        check(
            "Latencystats",
            "latency_percentiles_usec_get",
            ["p50=1.003,p99.9=2.007", "p50=0.503,p99.9=9.007"],
            "p50=1.003,p99.9=9.007",
        );
        check("Errorstats", "errorstat_ERR", ["count=1", "count=2"], "count=3");
        check(
            "Keyspace",
            "db0",
            ["keys=3,expires=1,avg_ttl=100", "keys=4,expires=3,avg_ttl=300"],
            "keys=7,expires=4,avg_ttl=250",
        );
        check("Keyspace", "db0", ["keys=3,expires=0,avg_ttl=0", "keys=4,expires=0,avg_ttl=0"], "keys=7,expires=0,avg_ttl=0");
    }

    #[test]
    fn ratios_and_figures_for_people_follow_from_the_sums() {
        let text = "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nused_memory_rss:2097152\r\nused_memory_peak:4194304\r\n\
                    used_memory_peak_perc:25.00%\r\nused_memory_startup:48576\r\nused_memory_dataset:500000\r\nused_memory_dataset_perc:50.00%\r\nmem_fragmentation_ratio:2.00\r\ntotal_system_memory:100\r\n";
        let info = merge(&["a", "a"], &[text, text], false);
        for (field, value) in [
            ("used_memory_human", "2.00M"),
            ("used_memory_peak_perc", "25.00%"),
            ("used_memory_dataset_perc", "50.00%"),
            ("mem_fragmentation_ratio", "2.00"),
            // Both run on one host.
            ("total_system_memory", "100"),
        ] {
            assert_eq!(info.get("memory", field), Some(value), "{field}");
        }
        assert_eq!([0.0, 1023.0, 1024.0, 1.5 * 1024.0 * 1024.0 * 1024.0].map(human), ["0B", "1023B", "1.00K", "1.50G"]);
    }

    #[test]
    fn guest_databases_count_as_the_clients() {
        let texts = [
            "# Keyspace\r\ndb1:keys=1,expires=0,avg_ttl=0\r\ndb8:keys=5,expires=0,avg_ttl=0\r\n",
            "# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\n",
        ];
        let mut out = String::new();
        assert!(merge(&["a", "b"], &texts, true).write("keyspace", &mut out));
        assert_eq!(out, "# Keyspace\r\ndb0:keys=7,expires=0,avg_ttl=0\r\ndb1:keys=1,expires=0,avg_ttl=0\r\n");
        let plain = merge(&["a", "b"], &texts, false);
        assert_eq!(plain.get("Keyspace", "db8"), Some("keys=5,expires=0,avg_ttl=0"));
    }

    #[test]
    fn what_some_nodes_lack_and_what_makes_no_sense() {
        let info = merge(
            &["a", "b"],
            &["# Stats\r\nnew_field:3\r\n", "# Stats\r\nold_field:4\r\nnonsense\r\n:\r\n# search\r\nx:1\r\n"],
            false,
        );
        assert_eq!((info.get("Stats", "new_field"), info.get("Stats", "old_field")), (Some("3"), Some("4")));
        let mut out = String::new();
        assert!(!info.write("search", &mut out) && !info.write("Memory", &mut out));
        for text in
            ["", "# ", "#", ":", "x:1", "# Keyspace\r\ndb0:\r\ndb99999999999999999999:keys=x,=,\r\n", "# CPU\r\na:1e999\r\n"]
        {
            let _ = merge(&["a", "b"], &[text, text], true);
        }
    }

    #[test]
    fn modules_are_named_once() {
        let text = "# Modules\r\nmodule:name=b,ver=1\r\nmodule:name=a,ver=1\r\n";
        let mut out = String::new();
        merge(&["a", "b"], &[text, text], false).write("modules", &mut out);
        assert_eq!(out, "# Modules\r\nmodule:name=a,ver=1\r\nmodule:name=b,ver=1\r\n");
    }
}
