//! Which module of the core may use which.

use super::files::File;

/// From the top to the bottom. A module uses modules of its own layer and of those below.
const LAYERS: &[&[&str]] = &[
    &["shard", "recover"],
    &["startup", "api", "broker"],
    &["session"],
    &["partition"],
    &["metadata"],
    &["replication"],
    &["codec"],
    &["command"],
    &["log"],
    &["config", "io", "limits", "mutants", "rng", "time", "ids"],
];

/// `path: uses module`, for each use of a module that lies above.
pub(super) fn violations(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        let module = file.path.iter().nth(2).expect("core/src/MODULE").to_string_lossy();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(own) = layer(module) else {
            found.push(format!("{}: module {module} belongs to no layer", file.path.display()));
            continue;
        };
        let code: Vec<&str> = file.code().map(|(_, line)| line).collect();
        for used in used_modules(&code.join("\n")) {
            match layer(&used) {
                Some(layer) if layer >= own => {}
                Some(_) => found.push(format!("{}: {module} uses {used}", file.path.display())),
                None => found.push(format!("{}: uses {used}, which belongs to no layer", file.path.display())),
            }
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The names that follow `crate::`, alone or in braces.
fn used_modules(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (place, matched) in code.match_indices("crate::") {
        let rest = &code[place + matched.len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(list_heads(list)),
            None => used.extend(name(rest)),
        }
    }
    used
}

/// The first name of each item in a list of imports, which ends with the brace that closes it.
fn list_heads(list: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for letter in list.chars() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(name(&std::mem::take(&mut item))),
            _ if depth == 0 => item.push(letter),
            _ => {}
        }
    }
    heads.extend(name(&item));
    heads
}

fn name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[test]
fn names_of_modules_are_found_wherever_they_are_used() {
    let code = "use crate::{\n    ids::{A, B},\n    log::read::C,\n    time::Now,\n};\ncrate::limits::X; pub(crate) fn";
    assert_eq!(used_modules(code), ["ids", "log", "time", "limits"]);
}
