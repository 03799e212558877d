//! What `docs/architecture.md` says is so. The order of the rooms stands there and nowhere else,
//! and is held against every path in `src/`; each hop of its walks names a function that is in the
//! file beside it.

use std::{collections::BTreeMap, fs, path::Path};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The block of the page that gives the order, the highest tier first:
/// ` room · room   what they are for`.
const ORDER: &str = "<!-- rooms -->";

/// Each room's tier; 0 is the lowest.
fn tiers(page: &str) -> BTreeMap<String, usize> {
    let block = page.split(ORDER).nth(1).expect("the order of the rooms").split("```").nth(1).expect("a code block");
    let lines: Vec<_> =
        block.lines().skip(1).filter(|line| line.starts_with(' ') && !line.starts_with("   ")).collect();
    let tiers = lines.iter().rev().enumerate();
    let rooms = tiers.flat_map(|(tier, line)| {
        let names = line.trim().split("   ").next().unwrap_or_default();
        names.split('·').map(move |name| (name.trim().to_owned(), tier))
    });
    let rooms: BTreeMap<_, _> = rooms.collect();
    assert!(rooms.len() > 10, "{rooms:?}");
    rooms
}

/// The rooms that a file names in its code: by `crate::`, or by as many `super::` as lead out of
/// its own.
fn rooms_named(path: &str, text: &str) -> Vec<(usize, String)> {
    // `src/room.rs` is one step below the crate, `src/room/part.rs` two.
    let depth = path.split('/').count();
    let mut named = Vec::new();
    look(text.parse().unwrap_or_else(|error| panic!("{path}: {error}")), depth, &mut named);
    named
}

fn look(tokens: TokenStream, depth: usize, named: &mut Vec<(usize, String)>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            // The item that follows is for tests, which may look anywhere.
            at += 2;
            while !matches!(&tokens[at], TokenTree::Punct(end) if end.as_char() == ';')
                && !matches!(&tokens[at], TokenTree::Group(body) if body.delimiter() == Delimiter::Brace)
            {
                at += 1;
            }
        } else if let Some(steps) = leads_out(&tokens[at..], depth) {
            at += steps;
            heads(&tokens[at..], named);
        } else if let TokenTree::Group(group) = &tokens[at] {
            let inner = at >= 2 && is_word(&tokens[at - 2], "mod");
            look(group.stream(), depth + usize::from(inner), named);
        }
        at += 1;
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = tokens else { return false };
    let text = attribute.stream().to_string().replace(' ', "");
    hash.as_char() == '#' && (text == "cfg(test)" || text.starts_with("cfg(all(test,"))
}

/// Whether a path starts here that leaves the room: how many tokens lead to what it names.
fn leads_out(tokens: &[TokenTree], depth: usize) -> Option<usize> {
    let colons = |at: usize| matches!(tokens.get(at..at + 2), Some([TokenTree::Punct(a), TokenTree::Punct(b)]) if a.as_char() == ':' && b.as_char() == ':');
    if is_word(tokens.first()?, "crate") && colons(1) {
        return Some(3);
    }
    let mut supers = 0;
    while tokens.get(3 * supers).is_some_and(|token| is_word(token, "super")) && colons(3 * supers + 1) {
        supers += 1;
    }
    (supers >= depth).then_some(3 * supers)
}

/// The first names of a path or of a group of paths.
fn heads(tokens: &[TokenTree], named: &mut Vec<(usize, String)>) {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => named.push((name.span().start().line, name.to_string())),
        Some(TokenTree::Group(group)) => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            for path in inner.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',')) {
                heads(path, named);
            }
        }
        _ => {}
    }
}

/// What is wrong with the paths of one file.
fn wrong(tiers: &BTreeMap<String, usize>, path: &str, text: &str) -> Vec<String> {
    let room = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let Some(own) = tiers.get(room) else {
        return vec![format!("src/{path}: docs/architecture.md gives the room `{room}` no place")];
    };
    let named = rooms_named(path, text).into_iter().filter(|(_, other)| other != room);
    let wrong = named.filter_map(|(line, other)| match tiers.get(&other) {
        Some(tier) if tier < own => None,
        Some(_) => Some(format!("src/{path}:{line}: `{room}` knows `{other}`, which is not below it")),
        None => Some(format!("src/{path}:{line}: `crate::{other}` is no room: name the room that it comes from")),
    });
    wrong.collect()
}

/// Modules of `lib.rs` that only tests have: they look at every room.
fn of_tests(lib: &str) -> impl Iterator<Item = String> {
    let modules = lib.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split_once(';'));
    modules.map(|(name, _)| format!("{name}.rs"))
}

fn sources(folder: &Path, below: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            if !matches!(entry.file_name().to_str(), Some("tests" | "generated")) {
                sources(&entry.path(), &format!("{name}/"), into);
            }
        } else if super::pages::has(Path::new(&name), "rs") && !name.ends_with("tests.rs") && name != "lib.rs" {
            into.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

#[test]
fn no_room_knows_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tiers = tiers(&fs::read_to_string(root.join("docs/architecture.md")).unwrap());
    let mut files = Vec::new();
    sources(&root.join("src"), "", &mut files);
    let lib = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    of_tests(&lib).for_each(|name| files.retain(|(path, _)| *path != name));
    assert!(files.len() > 100, "{}", files.len());
    let wrong: Vec<_> = files.iter().flat_map(|(path, text)| wrong(&tiers, path, text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for room in tiers.keys() {
        let has = |(path, _): &(String, String)| path.split('/').next().unwrap().trim_end_matches(".rs") == room;
        assert!(files.iter().any(has), "docs/architecture.md names the room `{room}`, which is not there");
    }
}

#[test]
fn an_import_from_above_is_found_however_it_is_written() {
    let tiers = BTreeMap::from([("low".to_owned(), 0), ("beside".to_owned(), 0), ("high".to_owned(), 1)]);
    let found = |path: &str, text: &str| wrong(&tiers, path, text).len();
    for text in [
        "use crate::high::Thing;",
        "use crate::{beside as other};",
        "use crate::{low::{A, B}, high};",
        "fn f() { let thing: crate::high::Thing = g(); }",
        "macro_rules! m { () => { $crate::high::f() } }",
        "#[cfg(feature = \"x\")] use crate::high::Thing;",
        "use crate::Thing;",
        "mod inner { use crate::high::Thing; }",
    ] {
        assert_eq!(found("low/part.rs", text), 1, "{text}");
        assert_eq!(found("low.rs", text), 1, "{text}");
    }
    assert_eq!(found("low.rs", "use super::high::Thing;"), 1);
    assert_eq!(found("low/part.rs", "use super::super::high::Thing;"), 1);
    assert_eq!(found("low/part.rs", "mod inner { use super::super::super::high::Thing; }"), 1);
    assert_eq!(found("nowhere.rs", ""), 1, "a room without a place");
    for text in [
        "use crate::low::Other;",
        "use super::high;",
        "// use crate::high::Thing;",
        "/// [`Thing`](crate::high::Thing)\nfn f() {}",
        "#[cfg(test)] mod tests { use crate::high::Thing; }",
        "#[cfg(test)] use crate::high::Thing;",
        "const TEXT: &str = \"crate::high\";",
    ] {
        assert_eq!(found("low/part.rs", text), 0, "{text}");
    }
    assert_eq!(found("high.rs", "use crate::low::Thing;"), 0, "looking down");
}

/// The hops of the page: a name, and the file that it is said to be in.
fn hops(page: &str) -> Vec<(String, String)> {
    let spans: Vec<_> = page.split('`').collect();
    let mut hops = Vec::new();
    // Every second piece is a code span. A name is followed by its file, with nothing but ` (` or
    // `, ` between.
    for at in (1..spans.len().saturating_sub(2)).step_by(2) {
        let (name, between, file) = (spans[at], spans[at + 1].split_whitespace().collect::<String>(), spans[at + 2]);
        if matches!(between.as_str(), "(" | ",") && file.starts_with("src/") && super::pages::has(Path::new(file), "rs")
        {
            hops.push((name.to_owned(), file.to_owned()));
        }
    }
    hops
}

fn is_there(name: &str, text: &str) -> bool {
    let mut parts = name.rsplit("::");
    let last = parts.next().unwrap_or_default();
    let defines = |word: &str| {
        let kinds = ["fn ", "struct ", "trait ", "enum "];
        kinds.iter().any(|kind| {
            text.match_indices(&format!("{kind}{word}")).any(|(at, found)| {
                !text[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    };
    // A method's type is at least named in the file.
    defines(last) && parts.next().is_none_or(|owner| text.contains(owner))
}

#[test]
fn every_hop_of_the_walks_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let hops = hops(&page);
    assert!(hops.len() > 30, "{}", hops.len());
    for (name, file) in hops {
        let text = fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(is_there(&name, &text), "docs/architecture.md says that `{name}` is in {file}");
    }
}

#[test]
fn a_hop_that_leads_nowhere_is_found() {
    let text = "impl Lane { pub(super) async fn send_all(&self) {} }";
    assert!(is_there("Lane::send_all", text));
    assert!(!is_there("Lane::send", text), "a longer name");
    assert!(!is_there("Queue::send_all", text), "another type");
}
