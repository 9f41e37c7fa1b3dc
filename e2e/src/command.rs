//! Running a short-lived program to its end: its output on success, a readable error otherwise.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How many bytes of a failed program's output are repeated in the error.
const ERROR_TAIL: usize = 4_000;

/// Runs `command` and returns what it wrote to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    finish(command, None)
}

/// Runs `command` with `input` on its standard input and returns its standard output.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    finish(command, Some(input))
}

/// Runs `command` with its output appended to the file at `log`.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file =
        File::options().create(true).append(true).open(log).with_context(|| format!("open log {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let shown = shown(command);
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        let text = std::fs::read(log).unwrap_or_default();
        bail!("`{shown}` ended with {status}; end of {}:\n{}", log.display(), tail(&text));
    }
    Ok(())
}

/// Whether `command` starts and ends with success; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a program of this name is on the `PATH` or in the folders for administrators.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = shown(command);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("start `{shown}`"))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A program that ends without reading all of its input says why by its status.
        let _ = pipe.write_all(text.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output().with_context(|| format!("wait for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}: {}", tail(&stderr));
    }
    String::from_utf8(stdout).with_context(|| format!("`{shown}` wrote bytes that are no text"))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(ERROR_TAIL);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_failed_program_is_in_the_error() {
        let error = output(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("because") && text.contains('3'), "{text}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(output_with_input(&mut Command::new("cat"), "hello").unwrap(), "hello");
    }
}
