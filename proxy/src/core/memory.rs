//! MEMORY STATS, DOCTOR and MALLOC-STATS: all nodes are asked, and one reply is made of what they say.

use std::cmp::Ordering;

use vrc_cluster::{
    command::Command,
    resp::{Args, Proto, encode, pairs, parse_integer, text_of},
};

use super::{Core, Flow};

impl Core {
    pub(super) fn memory(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        let proto = self.proto(index);
        let lane = self.sessions[index as usize].lane(false);
        let nodes = self.up.clone();
        let names: Vec<String> = nodes.iter().map(|node| self.topology.nodes()[usize::from(*node)].name.to_string()).collect();
        let targets: Vec<_> = nodes.into_iter().map(|node| (self.backend_of(node, lane), 0)).collect();
        let count = targets.len();
        let is_stats = command.own_name() == "stats";
        self.forward_to(index, &targets, args, move |join| {
            join.start_gather(count, move |replies, out| match replies.iter().find(|reply| reply[0] == b'-') {
                Some(error) => out.extend_from_slice(error),
                None if is_stats => write_stats(replies, proto, out),
                None => encode::verbatim(out, proto, &texts(&names, replies)),
            });
        })
    }
}

/// What each node says under its name, or if all say the same, that.
fn texts(names: &[String], replies: &[&[u8]]) -> String {
    let all: Vec<_> = replies.iter().map(|reply| text_of(reply).map(String::from_utf8_lossy).unwrap_or_default()).collect();
    if all.iter().all(|text| *text == all[0]) {
        return all[0].to_string();
    }
    names.iter().zip(&all).map(|(name, text)| format!("# Node {name}\n{}\n", text.trim_end())).collect()
}

/// A figure of MEMORY STATS.
#[derive(Debug, Clone, PartialEq)]
enum Figure {
    Count(i64),
    /// A ratio or percentage: of several nodes the worst counts.
    Ratio(f64),
    /// Those of one database.
    Group(Figures),
}

/// Figures by name, in the order of the first node.
type Figures = Vec<(String, Figure)>;

fn parse(reply: &[u8]) -> Option<Figures> {
    let figure = |(name, value): (&[u8], &[u8])| {
        let name = String::from_utf8_lossy(text_of(name)?).into_owned();
        let line = value.strip_suffix(b"\r\n").unwrap_or_default();
        let value = match value[0] {
            b':' => Figure::Count(parse_integer(&line[1..])?),
            b',' => Figure::Ratio(std::str::from_utf8(&line[1..]).ok()?.parse().ok()?),
            b'$' => Figure::Ratio(std::str::from_utf8(text_of(value)?).ok()?.parse().ok()?),
            _ => Figure::Group(parse(value)?),
        };
        Some((name, value))
    };
    pairs(reply)?.map(figure).collect()
}

fn merge(into: &mut Figures, other: Figures) {
    for (name, figure) in other {
        match into.iter_mut().find(|(known, _)| *known == name).map(|(_, known)| known) {
            None => into.push((name, figure)),
            Some(known) => match (known, figure) {
                (Figure::Count(sum), Figure::Count(more)) => *sum = sum.saturating_add(more),
                (Figure::Ratio(worst), Figure::Ratio(ratio)) if ratio.partial_cmp(worst) == Some(Ordering::Greater) => {
                    *worst = ratio
                }
                (Figure::Group(group), Figure::Group(more)) => merge(group, more),
                _ => {}
            },
        }
    }
}

fn write_stats(replies: &[&[u8]], proto: Proto, out: &mut Vec<u8>) {
    let mut all = Figures::new();
    replies.iter().filter_map(|reply| parse(reply)).for_each(|figures| merge(&mut all, figures));
    // What is no sum follows from what is one.
    let of = |all: &Figures, wanted: &str| {
        all.iter().find_map(|(name, figure)| match figure {
            Figure::Count(count) if name == wanted => Some(*count),
            _ => None,
        })
    };
    if let (Some(keys), Some(bytes)) = (of(&all, "keys.count"), of(&all, "dataset.bytes"))
        && let Some((_, figure)) = all.iter_mut().find(|(name, _)| name == "keys.bytes-per-key")
    {
        *figure = Figure::Count(if keys > 0 { bytes / keys } else { 0 });
    }
    write(&all, proto, out);
}

fn write(figures: &Figures, proto: Proto, out: &mut Vec<u8>) {
    encode::map(out, proto, figures.len());
    for (name, figure) in figures {
        encode::bulk(out, name.as_bytes());
        match figure {
            Figure::Count(count) => encode::integer(out, *count),
            Figure::Ratio(ratio) if proto == Proto::Resp3 => out.extend_from_slice(format!(",{ratio}\r\n").as_bytes()),
            Figure::Ratio(ratio) => encode::bulk(out, ratio.to_string().as_bytes()),
            Figure::Group(group) => write(group, proto, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_up_and_ratios_are_the_worst() {
        let stats = |keys: i64, ratio: &str, db: &str| {
            format!(
                "*10\r\n$10\r\nkeys.count\r\n:{keys}\r\n$18\r\nkeys.bytes-per-key\r\n:9\r\n$13\r\ndataset.bytes\r\n:100\r\n\
                 $13\r\nfragmentation\r\n$3\r\n{ratio}\r\n$4\r\n{db}\r\n*2\r\n$3\r\nexp\r\n:1\r\n"
            )
        };
        let (one, two, three) = (stats(3, "1.5", "db.0"), stats(1, "6.4", "db.0"), stats(0, "2.0", "db.3"));
        let mut out = Vec::new();
        write_stats(&[one.as_bytes(), two.as_bytes(), three.as_bytes()], Proto::Resp3, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "%6\r\n$10\r\nkeys.count\r\n:4\r\n$18\r\nkeys.bytes-per-key\r\n:75\r\n$13\r\ndataset.bytes\r\n:300\r\n$13\r\nfragmentation\r\n\
             ,6.4\r\n$4\r\ndb.0\r\n%1\r\n$3\r\nexp\r\n:2\r\n$4\r\ndb.3\r\n%1\r\n$3\r\nexp\r\n:1\r\n"
        );
    }

    #[test]
    fn texts_that_are_all_the_same_are_told_once() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(texts(&names, &[b"$2\r\nok\r\n", b"$2\r\nok\r\n"]), "ok");
        assert_eq!(texts(&names, &[b"=6\r\ntxt:ok\r\n", b"$3\r\nbad\r\n"]), "# Node a\nok\n# Node b\nbad\n");
    }

    #[test]
    fn nonsense_of_a_node_is_left_out() {
        let mut out = Vec::new();
        write_stats(
            &[b"*2\r\n$1\r\na\r\n:1\r\n", b"*2\r\n$1\r\na\r\n$1\r\nx\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n"],
            Proto::Resp2,
            &mut out,
        );
        assert_eq!(out, b"*2\r\n$1\r\na\r\n:1\r\n");
    }
}
