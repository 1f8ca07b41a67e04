// Package policyfile reads policies from a YAML file and keeps the policies in force in step with it.
//
// A file is taken whole or refused whole, and then with every error that is in it, each with its line and column, the
// value found and what would be right. What it may cost to read is bounded before it is parsed: its size, how deep it
// nests, how many fields a mapping has; anchors, aliases, tags and repeated keys are refused.
//
// It promises nothing about what the policies mean: that is the domain's.
package policyfile
