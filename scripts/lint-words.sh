#!/usr/bin/env bash
# Reports each use of a word of words.txt, in the files of the repository and in their names: FILE:LINE: "WORD": say ADVICE.
# Exit status 1 if there is one. Not searched: the list itself, the change log, checksums, generated files and recorded data.
set -euo pipefail
cd "$(dirname "$0")/.."

list=${WORDS:-scripts/words.txt}
searched=(':!scripts/words*.txt' ':!CHANGELOG.md' ':!*go.mod' ':!*go.sum' ':!*.svg' ':!docs/benchmarks.*' ':!*/wire_gen.go' ':!*/testdata/fuzz/*')

# expression turns an entry of the list into a regular expression. A word is found alone and as a part of an identifier.
expression() {
  local entry=$1 word first
  if [[ $entry == /*/ ]]; then
    entry=${entry#/}
    echo "${entry%/}"
    return
  fi
  for word in $entry; do
    first=${word:0:1}
    printf '|(?<![A-Za-z])[%s%s]%s(?![a-z])|(?<=[a-z0-9])%s(?![a-z])' "$first" "${first^}" "${word:1}" "${word^}"
  done | cut -c2-
}

found=0
while IFS=$'\t' read -r entry say except; do
  if [[ -z $entry || $entry == '#'* ]]; then continue; fi
  regexp=$(expression "$entry")
  read -r -a paths <<<"$except"
  paths+=("${searched[@]}")
  if hits=$(git grep --untracked -InPo --no-color -e "$regexp" -- "${paths[@]}"); then
    found=1
    sed -E "s|^([^:]*:[0-9]*):(.*)|\1: \"\2\": say $say|" <<<"$hits"
  fi
  if hits=$(git ls-files --cached --others --exclude-standard -- "${paths[@]}" | grep -P -e "$regexp"); then
    found=1
    sed "s|\$|: the name of the file: say $say|" <<<"$hits"
  fi
done <"$list"
exit $found
