//! Cargo manifests: what a package depends on, in all of its tables, and what every package keeps.

use toml::de::{DeTable, DeValue};

use super::Source;

/// Crates that may return errors that nobody can match on: they print them.
const UNTYPED_ERRORS_IN: [&str; 2] = ["everpoint", "xtask"];
const TABLES: [(&str, Use); 3] = [
    ("dependencies", Use::Build),
    ("build-dependencies", Use::Build),
    ("dev-dependencies", Use::Test),
];

/// Whether what depends is what is shipped, or only its tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Build,
    Test,
}

#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) source: Source,
    pub(crate) name: String,
    /// All of them, also those of one platform only.
    pub(crate) dependencies: Vec<Dependency>,
    /// What `[workspace.dependencies]` renames: the name used here, and the package behind it.
    renamed: Vec<(String, String)>,
    keeps_lints: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    /// The name it has here.
    pub(crate) alias: String,
    /// The package that it says it is, when that is not its name here.
    package: Option<String>,
    pub(crate) used_for: Use,
    pub(crate) line: usize,
    /// Whether version and features are those of the workspace.
    is_inherited: bool,
}

impl Dependency {
    /// The package behind the name, which a manifest may change in two places.
    pub(crate) fn package<'a>(&'a self, workspace: &'a Manifest) -> &'a str {
        let renamed = workspace.renamed.iter();
        let mut renamed = renamed.filter(|(alias, _)| self.is_inherited && *alias == self.alias);
        match (&self.package, renamed.next()) {
            (Some(package), _) | (None, Some((_, package))) => package,
            (None, None) => &self.alias,
        }
    }
}

impl Manifest {
    pub(crate) fn parse(source: Source) -> Self {
        let parsed = DeTable::parse(&source.text).expect("cargo reads it, so it is TOML");
        let top = parsed.get_ref();
        let mut dependencies = read_tables(top, &source.text);
        for (_, platform) in entries(table(top, "target")) {
            if let DeValue::Table(platform) = platform {
                dependencies.extend(read_tables(platform, &source.text));
            }
        }
        let package = table(top, "package");
        let name = package.and_then(|package| text(package, "name"));
        let shared = table(top, "workspace").and_then(|workspace| table(workspace, "dependencies"));
        let renamed = entries(shared).filter_map(|(alias, value)| {
            let package = text(as_table(value)?, "package")?;
            Some((alias.to_owned(), package))
        });
        Self {
            name: name.unwrap_or_default(),
            dependencies,
            renamed: renamed.collect(),
            keeps_lints: table(top, "lints").is_some_and(|lints| is_true(lints, "workspace")),
            source: source.clone(),
        }
    }
}

/// Packages whose code the workspace's lints do not reach, so that it might hold unsafe code.
pub(crate) fn without_lints(packages: &[Manifest]) -> Vec<String> {
    let without = packages.iter().filter(|package| !package.keeps_lints);
    without
        .map(|package| {
            package
                .source
                .finding(1, "has no `[lints] workspace = true`")
        })
        .collect()
}

/// Dependencies with a version of their own: two packages would be built with two sets of features.
pub(crate) fn own_versions(packages: &[Manifest]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        for used in package
            .dependencies
            .iter()
            .filter(|used| !used.is_inherited)
        {
            let what = format!("`{}` is not `workspace = true`", used.alias);
            findings.push(package.source.finding(used.line, what));
        }
    }
    findings
}

/// Libraries whose errors cannot be matched on.
pub(crate) fn untyped_errors(crates: &[Manifest], workspace: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for library in crates {
        if UNTYPED_ERRORS_IN.contains(&library.name.as_str()) {
            continue;
        }
        for used in &library.dependencies {
            if used.used_for == Use::Build && used.package(workspace) == "anyhow" {
                let what =
                    "anyhow is for programs and tests; a library has an error for each operation";
                findings.push(library.source.finding(used.line, what));
            }
        }
    }
    findings
}

fn read_tables(holder: &DeTable<'_>, source: &str) -> Vec<Dependency> {
    let mut dependencies = Vec::new();
    for (name, used_for) in TABLES {
        let Some(found) = table(holder, name) else {
            continue;
        };
        for (alias, value) in found {
            let fields = as_table(value.get_ref());
            dependencies.push(Dependency {
                alias: alias.get_ref().to_string(),
                package: fields.and_then(|fields| text(fields, "package")),
                used_for,
                line: source[..alias.span().start].matches('\n').count() + 1,
                is_inherited: fields.is_some_and(|fields| is_true(fields, "workspace")),
            });
        }
    }
    dependencies
}

fn as_table<'a, 'b>(value: &'a DeValue<'b>) -> Option<&'a DeTable<'b>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn table<'a, 'b>(holder: &'a DeTable<'b>, name: &str) -> Option<&'a DeTable<'b>> {
    as_table(holder.get(name)?.get_ref())
}

fn entries<'a, 'b: 'a>(
    table: Option<&'a DeTable<'b>>,
) -> impl Iterator<Item = (&'a str, &'a DeValue<'b>)> {
    let entries = table.into_iter().flatten();
    entries.map(|(name, value)| (name.get_ref().as_ref(), value.get_ref()))
}

fn text(holder: &DeTable<'_>, name: &str) -> Option<String> {
    match holder.get(name)?.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    }
}

fn is_true(holder: &DeTable<'_>, name: &str) -> bool {
    matches!(
        holder.get(name).map(|value| value.get_ref()),
        Some(DeValue::Boolean(true))
    )
}
