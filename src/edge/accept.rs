//! From a request's records to what is stored: each is judged by the vendor's rules and stamped with what only the edge
//! knows (arrival time, caller's address, identifiers).
//!
//! The stored text is what Mixpanel will get. A record that needs no stamp is a slice of the request; the others are
//! written one behind the other into one buffer. A request that is mostly something else is let go of: the journal keeps
//! records in memory for a while and counts their own bytes alone (P10).

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;

use super::decode::{self, DecodeError};
use super::ids::{self, Minter};
use super::options::IpOption;
use super::privacy;
use super::splice::Edits;
use crate::clock::UnixMillis;
use crate::config::{IdentityMode, IpPolicy};
use crate::mixpanel::validate::{self, InsertId, Problem, Rules, Tokens};
use crate::mixpanel::wire::{Element, Event, Operator, Raw, Update};
use crate::mixpanel::{Api, MAX_RECORDS};
use crate::record::{Destinations, Kind, Origin, Project, Record};

/// What the credentials of an `/import` say about records that do not name their project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Implied {
    pub project: Project,
    /// The token that such records are stamped with.
    pub token: String,
}

/// Everything outside the records that decides how they are stored.
#[derive(Clone, Debug)]
pub struct Context<'c> {
    pub api: Api,
    pub rules: Rules,
    pub tokens: &'c Tokens,
    pub identity: IdentityMode,
    pub implied: Option<Implied>,
    pub ip: IpOption,
    pub ip_policy: IpPolicy,
    pub caller: IpAddr,
    pub now: UnixMillis,
    pub minter: &'c Minter,
}

/// A record that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub index: usize,
    /// The record's own, for the caller to find it by.
    pub insert_id: Option<String>,
    pub problem: Problem,
}

/// What became of a request's records.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub records: Vec<Record>,
    pub failed: Vec<Failed>,
    /// Whether the records are all of the data, not a byte changed.
    pub untouched: bool,
}

/// Judges and stamps the records in `data`.
pub fn records(data: &Bytes, context: &Context<'_>) -> Result<Verdict, DecodeError> {
    // Bytes that are not UTF-8 become U+FFFD, and the records that hold one are refused; their neighbours are not.
    let mended;
    let (data, text, repaired) = match std::str::from_utf8(data) {
        Ok(text) => (data, text, false),
        Err(_) => {
            mended = Bytes::from(String::from_utf8_lossy(data).into_owned());
            (&mended, std::str::from_utf8(&mended).map_err(|_| DecodeError::NotJson)?, true)
        }
    };
    let mut writer = Writer::new(data.clone(), text, repaired, context);
    if context.api.takes_events() {
        decode::visit(text, MAX_RECORDS, |index, element| writer.event(index, &element))?;
    } else {
        decode::visit(text, MAX_RECORDS, |index, element| writer.update(index, &element))?;
    }
    Ok(writer.finish())
}

/// Where a stored record's text stands.
enum Place {
    Request(Range<usize>),
    Buffer(Range<usize>),
}

struct Writer<'w> {
    data: Bytes,
    text: &'w str,
    repaired: bool,
    context: &'w Context<'w>,
    stored: Vec<(Kind, Project, Destinations, Place)>,
    failed: Vec<Failed>,
    buffer: Vec<u8>,
    edits: Edits,
    /// What may be stored of the caller's address, as JSON.
    address: String,
}

impl<'w> Writer<'w> {
    fn new(data: Bytes, text: &'w str, repaired: bool, context: &'w Context<'w>) -> Self {
        Self {
            data,
            text,
            repaired,
            context,
            stored: Vec::new(),
            failed: Vec::new(),
            buffer: Vec::new(),
            edits: Edits::default(),
            address: privacy::of_caller(context.caller, context.ip_policy),
        }
    }

    fn refuse(&mut self, index: usize, insert_id: Option<Raw<'_>>, problem: Problem) {
        let insert_id = insert_id.and_then(|raw| raw.as_str()).map(Cow::into_owned);
        self.failed.push(Failed { index, insert_id, problem });
    }

    fn event(&mut self, index: usize, element: &Element<Event<'_>>) {
        let Element::Object(event) = element else { return self.refuse(index, None, Problem::NotAnObject) };
        let insert_id = event.properties.as_ref().and_then(|properties| properties.insert_id);
        let span = event.span(self.text);
        let length = span.as_ref().map_or(0, Range::len);
        let context = self.context;
        let implied = context.implied.as_ref().map(|implied| implied.project);
        let accepted =
            match validate::event(event, length, context.rules, context.tokens, implied, context.identity, context.now)
            {
                Ok(accepted) => accepted,
                Err(problem) => return self.refuse(index, insert_id, problem),
            };
        // Rules have made sure of the name and of properties that are not empty, so both are there.
        let (Some(span), Some(brace)) =
            (span, event.properties.as_ref().and_then(|properties| properties.closing_brace(self.text)))
        else {
            return self.refuse(index, insert_id, Problem::PropertiesMissing);
        };
        if self.is_damaged(&span) {
            return self.refuse(index, insert_id, Problem::NotUtf8);
        }
        self.edits.clear();
        self.stamp_event(event, accepted.repair, brace);
        let destinations = match (accepted.project, accepted.ignored) {
            (Project::Ours, false) => Destinations::ALL,
            (Project::Foreign, _) | (_, true) => Destinations::MIXPANEL,
        };
        self.store(accepted.kind, accepted.project, destinations, span);
    }

    fn stamp_event(&mut self, event: &Event<'_>, repair: validate::Repair, brace: usize) {
        let Some(properties) = &event.properties else { return };
        let context = self.context;
        if repair.token
            && let Some(implied) = &context.implied
        {
            self.put(properties.token, brace, "token", JsonText(&implied.token));
        }
        if repair.distinct_id {
            self.put(properties.distinct_id, brace, "distinct_id", "\"\"");
        }
        if repair.time {
            self.put(properties.time, brace, "time", context.now.0);
        }
        match repair.insert_id {
            InsertId::Good => {}
            InsertId::Absent => {
                let id = event.metadata.and_then(ids::event_id).unwrap_or_else(|| context.minter.mint());
                self.put(properties.insert_id, brace, "$insert_id", Id(id));
            }
            InsertId::Unusable(_) => {
                if let Some(own) = properties.insert_id {
                    let value = own.as_str().unwrap_or(Cow::Borrowed(own.text()));
                    let id = ids::derive(ids::Source::InsertId, &value);
                    self.put(Some(own), brace, "$insert_id", Id(id));
                    self.edits.append(brace, "mixrelay_insert_id", own.text());
                }
            }
        }
        if context.ip == IpOption::Requester {
            for own in &properties.ip {
                self.edits.replace(own.span(self.text), &self.address);
            }
            if properties.ip.is_empty() {
                self.edits.append(brace, "ip", &self.address);
            }
        } else {
            self.hide(&properties.ip);
        }
        self.hide(&properties.dollar_ip);
    }

    /// Replaces a member's value, or appends the member.
    fn put(&mut self, present: Option<Raw<'_>>, brace: usize, key: &str, value: impl std::fmt::Display) {
        match present {
            Some(raw) => self.edits.replace(raw.span(self.text), value),
            None => self.edits.append(brace, key, value),
        }
    }

    /// Applies the privacy rule to addresses that came inside a record.
    fn hide(&mut self, addresses: &[Raw<'_>]) {
        for raw in addresses {
            if let Some(hidden) = privacy::of_record(*raw, self.context.ip_policy) {
                self.edits.replace(raw.span(self.text), hidden);
            }
        }
    }

    fn update(&mut self, index: usize, element: &Element<Update<'_>>) {
        let Element::Object(update) = element else { return self.refuse(index, None, Problem::NotAnObject) };
        let span = update.span(self.text);
        let length = span.as_ref().map_or(0, Range::len);
        let project = match validate::update(update, length, self.context.api, self.context.tokens) {
            Ok(project) => project,
            Err(problem) => return self.refuse(index, None, problem),
        };
        let Some(span) = span else { return self.refuse(index, None, Problem::NotAnObject) };
        if self.is_damaged(&span) {
            return self.refuse(index, None, Problem::NotUtf8);
        }
        self.edits.clear();
        self.stamp_update(update, span.end - 1);
        let ignored = update.ignore.is_some_and(validate::is_truthy);
        let destinations = match (project, ignored) {
            (Project::Ours, false) => Destinations::ALL,
            (Project::Foreign, _) | (_, true) => Destinations::MIXPANEL,
        };
        let kind = if self.context.api == Api::Groups { Kind::Group } else { Kind::Profile };
        self.store(kind, project, destinations, span);
    }

    fn stamp_update(&mut self, update: &Update<'_>, brace: usize) {
        let context = self.context;
        if context.ip_policy != IpPolicy::Keep {
            self.hide_in_operands(update);
        }
        // Groups have no place on the map; profiles take the requester's unless told otherwise (contract §5).
        match (context.api, context.ip) {
            (Api::Groups, _) => self.hide(&update.ip),
            (_, IpOption::Requester) if !update.ip.is_empty() => {
                for own in &update.ip {
                    self.edits.replace(own.span(self.text), &self.address);
                }
            }
            (_, IpOption::Requester | IpOption::Unsaid) if update.ip.is_empty() => {
                self.edits.append(brace, "$ip", &self.address);
            }
            (_, IpOption::Nobody) if update.ip.is_empty() => self.edits.append(brace, "$ip", 0),
            _ => self.hide(&update.ip),
        }
    }

    /// Addresses that were set as profile properties (`{"$set": {"$ip": ...}}`).
    fn hide_in_operands(&mut self, update: &Update<'_>) {
        for (operator, operand) in &update.operators {
            if !matches!(operator, Operator::Set | Operator::SetOnce) {
                continue;
            }
            if let Some(properties) = operand.as_properties() {
                self.hide(&properties.ip);
                self.hide(&properties.dollar_ip);
            }
        }
    }

    fn is_damaged(&self, span: &Range<usize>) -> bool {
        self.repaired && self.text[span.clone()].contains(char::REPLACEMENT_CHARACTER)
    }

    fn store(&mut self, kind: Kind, project: Project, destinations: Destinations, span: Range<usize>) {
        let place = if self.edits.is_empty() {
            Place::Request(span)
        } else {
            let start = self.buffer.len();
            self.edits.apply(self.text, span, &mut self.buffer);
            Place::Buffer(start..self.buffer.len())
        };
        self.stored.push((kind, project, destinations, place));
    }

    /// Copies what is kept of the request into the buffer, where as slices it would hold on to more than twice its size.
    fn let_go_of_the_request(&mut self) {
        let in_request = |place: &Place| match place {
            Place::Request(range) => range.len(),
            Place::Buffer(_) => 0,
        };
        let kept: usize = self.stored.iter().map(|(.., place)| in_request(place)).sum();
        if kept >= self.data.len() / 2 {
            return;
        }
        self.buffer.reserve_exact(kept);
        for (.., place) in &mut self.stored {
            if let Place::Request(range) = place {
                let start = self.buffer.len();
                self.buffer.extend_from_slice(&self.data[range.clone()]);
                *place = Place::Buffer(start..self.buffer.len());
            }
        }
    }

    fn finish(mut self) -> Verdict {
        self.let_go_of_the_request();
        let untouched = self.buffer.is_empty() && self.failed.is_empty() && !self.repaired;
        let buffer = Bytes::from(self.buffer);
        let received_at = self.context.now;
        let records = self
            .stored
            .into_iter()
            .map(|(kind, project, destinations, place)| {
                let body = match place {
                    Place::Request(range) => self.data.slice(range),
                    Place::Buffer(range) => buffer.slice(range),
                };
                Record { kind, origin: Origin::App, destinations, project, received_at, body }
            })
            .collect();
        Verdict { records, failed: self.failed, untouched }
    }
}

/// An identifier as a JSON string.
struct Id(u128);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{:032x}\"", self.0)
    }
}

/// A string as a JSON string.
struct JsonText<'t>(&'t str);

impl std::fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self.0).map_err(|_| std::fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
