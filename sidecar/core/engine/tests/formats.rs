//! `docs/formats.md` says what the constants say.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use spillway_engine::header;
use spillway_engine::layout::*;
use spillway_engine::nvme;
use spillway_engine::seqlock::Entry;

/// (field, offset, bytes).
type Fields = &'static [(&'static str, usize, usize)];

fn document() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/formats.md")).unwrap()
}

/// The numeric columns of every table row whose first cell is a plain word, by the name in backquotes or the heading before the table.
fn tables() -> HashMap<String, Vec<(String, Vec<usize>)>> {
    let mut tables: HashMap<String, Vec<(String, Vec<usize>)>> = HashMap::new();
    let mut name = String::new();
    for line in document().lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            name = heading.to_owned();
        } else if let Some((table, _)) = line.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
            name = table.to_owned();
        } else if line.starts_with('|') {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let numbers: Vec<usize> = cells[1..].iter().map_while(|cell| cell.parse().ok()).collect();
            if !numbers.is_empty() {
                tables.entry(name.clone()).or_default().push((cells[0].to_owned(), numbers));
            }
        }
    }
    tables
}

#[test]
fn every_record_is_described_field_by_field() {
    let tables = tables();
    let records: &[(&str, Fields)] = &[
        ("IndexHeader", IndexHeader::FIELDS),
        ("ClassRecord", ClassRecord::FIELDS),
        ("IncarnationRecord", IncarnationRecord::FIELDS),
        ("SlotRecord", SlotRecord::FIELDS),
        ("Entry", Entry::FIELDS),
        ("CtlHeader", CtlHeader::FIELDS),
        ("RankRecord", RankRecord::FIELDS),
        ("RingHeader", RingHeader::FIELDS),
        ("OpRecord", OpRecord::FIELDS),
        ("TicketRecord", TicketRecord::FIELDS),
        ("SlotHeader", header::FIELDS),
        ("Superblock", nvme::SUPERBLOCK_FIELDS),
    ];
    for (name, fields) in records {
        let want: Vec<_> = fields.iter().map(|(field, offset, bytes)| (field.to_string(), vec![*offset, *bytes])).collect();
        assert_eq!(tables.get(*name), Some(&want), "table of {name}");
    }
}

#[test]
fn the_sections_of_a_control_file_are_described() {
    let want: Vec<_> = CTL_SECTIONS.iter().map(|(section, offset)| (section.to_string(), vec![*offset])).collect();
    assert_eq!(tables().get("Control file"), Some(&want));
}

#[test]
fn operations_and_names_are_described() {
    let text = document();
    for (number, name) in
        [(op::FINGERPRINT, "FINGERPRINT"), (op::PUBLISH, "PUBLISH"), (op::RELEASE, "RELEASE"), (op::PROMOTE, "PROMOTE"), (op::USE, "USE")]
    {
        assert!(text.contains(&format!("{number} {name}")), "{name}");
    }
}
