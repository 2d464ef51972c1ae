//! LATENCY: what took long on this proxy, and how long its commands take.

use std::fmt::Write;

use vrc_cluster::{
    command::{Command, CommandId, lookup, lookup_subcommand},
    resp::{Args, Proto, encode},
};

use super::Core;
use crate::{
    latency::{AllHistograms, Event, Histogram, Series, class_us_max},
    slowlog::unix_s,
};

/// Columns of a graph, and its lines.
const GRAPH_COLUMNS: usize = 80;
const GRAPH_LINES: u64 = 4;

impl Core {
    /// `LATENCY DOCTOR|GRAPH|HISTOGRAM|HISTORY|LATEST|RESET`.
    pub(super) fn latency(&mut self, index: u32, command: &'static Command, args: Args<'_>) {
        let logs = self.settings.logs.clone();
        let log = &logs.latency;
        let proto = self.proto(index);
        match command.own_name() {
            "latest" => self.answer_now(index, |out| {
                let all = log.all();
                encode::array(out, all.len());
                for (event, series) in all {
                    let (time_s, ms) = series.samples.back().copied().unwrap_or_default();
                    encode::array(out, 4);
                    encode::bulk(out, event.name().as_bytes());
                    [time_s, ms, series.max_ms].into_iter().for_each(|number| encode::integer(out, number as i64));
                }
            }),
            "history" => self.answer_now(index, |out| {
                let series = Event::named(&args[2]).and_then(|event| log.of(event)).unwrap_or_default();
                encode::array(out, series.samples.len());
                for (time_s, ms) in series.samples {
                    encode::array(out, 2);
                    encode::integer(out, time_s as i64);
                    encode::integer(out, ms as i64);
                }
            }),
            "reset" => {
                let count = match args.len() {
                    2 => log.reset(None),
                    _ => args.iter().skip(2).filter_map(Event::named).map(|event| log.reset(Some(event))).sum(),
                };
                self.answer_now(index, |out| encode::integer(out, count as i64));
            }
            "graph" => match Event::named(&args[2]).and_then(|event| Some((event, log.of(event)?))) {
                Some((event, series)) => {
                    self.answer_now(index, |out| encode::verbatim(out, proto, &graph(event, &series, unix_s())));
                }
                None => self.refuse(index, [b"ERR No samples available for event '", &args[2], b"'"].concat()),
            },
            "doctor" => {
                let text = self.diagnosis(&log.all());
                self.answer_now(index, |out| encode::verbatim(out, proto, &text));
            }
            _ => {
                let all = self.all_stats.histograms();
                let wanted: Vec<_> = match args.len() {
                    2 => CommandId::all().map(CommandId::command).collect(),
                    _ => args.iter().skip(2).flat_map(meant).collect(),
                };
                self.answer_now(index, |out| write_histograms(&wanted, &all, proto, out));
            }
        }
    }

    fn diagnosis(&self, all: &[(Event, Series)]) -> String {
        if all.is_empty() && self.live.latency_ms == 0 {
            return "Latency monitoring is disabled in this proxy. You may use \"CONFIG SET latency-monitor-threshold \
                    <milliseconds>\" to enable it.\n"
                .to_owned();
        }
        if all.is_empty() {
            return "No latency spike was observed since this proxy was started or LATENCY RESET was last used.\n".to_owned();
        }
        let mut text = "Latency spikes were observed in this proxy:\n\n".to_owned();
        for (number, (event, series)) in all.iter().enumerate() {
            let count = series.samples.len() as u64;
            let average = series.samples.iter().map(|(_, ms)| ms).sum::<u64>() / count.max(1);
            let deviation = series.samples.iter().map(|(_, ms)| ms.abs_diff(average)).sum::<u64>() / count.max(1);
            let period_s = unix_s().saturating_sub(series.samples.front().map_or(0, |(time_s, _)| *time_s)).max(1);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{}. {}: {count} latency spikes (average {average}ms, mean deviation {deviation}ms, period {:.2} sec). Worst all time \
                 event {}ms. {}",
                number + 1,
                event.name(),
                period_s as f64 / count.max(1) as f64,
                series.max_ms,
                advice(*event),
            );
        }
        text
    }
}

/// What such spikes come from, as a rule, and what to look at.
fn advice(event: Event) -> &'static str {
    match event {
        Event::Command => "SLOWLOG GET names the commands; a node's own SLOWLOG tells which of them it was slow with.",
        Event::FastCommand => {
            "Such commands are quick at a node: it was busy with another, as its own SLOWLOG may tell, or the network was slow."
        }
        Event::NodeConnect => "A node's machine or the way to it is slow, or connections wait in its backlog.",
        Event::MapSwap => "Much was queued for nodes that left. It is of no importance where it is rare.",
        Event::Turn => {
            "A worker was kept by a large reply or by very many commands at once, or got no processor: look at the machine's load, \
             and give the proxy more --workers."
        }
    }
}

/// The commands that a name given to LATENCY HISTOGRAM means: itself and its subcommands.
fn meant(name: &[u8]) -> Vec<&'static Command> {
    let command = match name.iter().position(|byte| *byte == b'|') {
        None => lookup(name),
        Some(bar) => lookup(&name[..bar]).and_then(|container| lookup_subcommand(container, &name[bar + 1..])),
    };
    command.into_iter().flat_map(|command| std::iter::once(command).chain(command.subcommands)).collect()
}

fn write_histograms(wanted: &[&'static Command], all: &AllHistograms, proto: Proto, out: &mut Vec<u8>) {
    let called: Vec<(&str, Histogram)> =
        wanted.iter().filter_map(|command| Some((command.name, all.of(command.id())?))).collect();
    encode::map(out, proto, called.len());
    for (name, histogram) in called {
        encode::bulk(out, name.as_bytes());
        encode::map(out, proto, 2);
        encode::bulk(out, b"calls");
        encode::integer(out, histogram.calls() as i64);
        encode::bulk(out, b"histogram_usec");
        // Of each class that has any, how many there are up to it.
        let up_to = histogram.classes.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let classes: Vec<_> = up_to.enumerate().filter(|(class, _)| histogram.classes[*class] > 0).collect();
        encode::map(out, proto, classes.len());
        for (class, count) in classes {
            encode::integer(out, class_us_max(class) as i64);
            encode::integer(out, count as i64);
        }
    }
}

/// The latest samples as bars, and below each, read downwards, how long ago it was.
fn graph(event: Event, series: &Series, now_s: u64) -> String {
    let shown: Vec<_> = series.samples.iter().skip(series.samples.len().saturating_sub(GRAPH_COLUMNS)).copied().collect();
    let (low, high) = (shown.iter().map(|(_, ms)| *ms).min().unwrap_or(0), shown.iter().map(|(_, ms)| *ms).max().unwrap_or(0));
    let mut text = format!(
        "{} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        event.name(),
        series.max_ms,
        "-".repeat(GRAPH_COLUMNS)
    );
    let mut line = |sign: &dyn Fn(&(u64, u64)) -> char| {
        let signs: String = shown.iter().map(sign).collect();
        text.push_str(signs.trim_end());
        text.push('\n');
    };
    for level in (0..GRAPH_LINES).rev() {
        line(&|(_, ms)| {
            let height = if high == low { GRAPH_LINES } else { 1 + (ms - low) * (GRAPH_LINES - 1) / (high - low) };
            match height.cmp(&(level + 1)) {
                std::cmp::Ordering::Less => ' ',
                std::cmp::Ordering::Equal => '#',
                std::cmp::Ordering::Greater => '|',
            }
        });
    }
    let ages: Vec<_> = shown.iter().map(|(time_s, _)| age(now_s.saturating_sub(*time_s))).collect();
    text.push('\n');
    for row in 0..ages.iter().map(String::len).max().unwrap_or(0) {
        let signs: String = ages.iter().map(|age| age.chars().nth(row).unwrap_or(' ')).collect();
        text.push_str(signs.trim_end());
        text.push('\n');
    }
    text
}

fn age(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_shows_the_latest_and_how_long_ago_they_were() {
        let series = Series { samples: [(100, 10), (160, 40), (201, 20)].into(), max_ms: 90 };
        let text = graph(Event::Command, &series, 203);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "command - high 40 ms, low 10 ms (all time high 90 ms)");
        assert_eq!(lines[2..], [" #", " |", " |#", "#||", "", "142", "m3s", " s"]);
        assert!(graph(Event::Command, &Series::default(), 0).starts_with("command - high 0 ms"));
    }

    #[test]
    fn a_container_means_its_subcommands_too() {
        assert!(meant(b"client").len() > 10);
        assert_eq!(meant(b"Client|ID").len(), 1);
        assert_eq!((meant(b"nonsense").len(), meant(b"client|nonsense").len()), (0, 0));
    }
}
