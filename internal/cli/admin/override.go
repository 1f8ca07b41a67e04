package admin

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/web/overridejson"
)

// Override sets, shows, lists and ends the overrides of single clients.
var Override = command.Command{
	Name: "override", Args: "set|get|delete|list|apply|export ...",
	Purpose: "give single clients other limits in a running service",
	Usage: `set [-policy NAME] [-source KEY] -limit LIMIT... | -exempt | -block [-expires WHEN] [-note TEXT] CLIENT
       velocity override get|delete [-policy NAME] [-source KEY] CLIENT
       velocity override list [-policy NAME]
       velocity override apply FILE
       velocity override export [-policy NAME]`,
	Help: `An override gives one client other limits than its policy's, or none, or blocks it. It is in force on every node within a
second, without a change of the policy file, and wins over everything that the file says of this client, its plan included.
CLIENT is one client, no pattern.

  set     puts an override in force, in place of the one before. A limit is written as in the policy file, on one line, with the
          name of a limit of the policy; what it does not say stays as the policy has it, not as an override of the file has it:
          -limit 'name: daily, quota: 50000/month'
  get     shows the override of a client
  delete  ends it: the client has the policy's limits again
  list    shows the overrides, of all policies and shared limits if -policy is not given, also of those that are gone
  apply   sets those of FILE, lines of JSON as export writes them; - is standard input. It goes on after a line that fails, and
          then exits with 1: one of a policy that is gone fails until it is back. Of several lines about one client the last one
          counts. It ends no override
  export  writes them as lines of JSON

  {"policy":"search","key":"alice","limits":[{"name":"daily","quota":"50000/month"}],"note":"ticket 123"}

With buckets in memory, overrides are those of one process, and end with it.
` + sourceHelp + adminHelp,
	Define: func(f *flag.FlagSet) command.Action {
		o := &overrideFlags{bucketFlags: newBucketFlags(f)}
		f.Func("limit", "set: another `limit`, as in a policy file; may be repeated", o.addLimit)
		f.BoolVar(&o.exempt, "exempt", false, "set: the client is never limited")
		f.BoolVar(&o.block, "block", false, "set: the client never passes")
		f.StringVar(&o.expires, "expires", "", "set: `when` the override ends: after 24h, or at 2027-01-31T00:00:00Z")
		f.StringVar(&o.note, "note", "", "set: a `text` that says why")
		return func(ctx context.Context, args []string, s command.Streams) error {
			if len(args) == 0 {
				return command.UsageError{Err: errors.New("say what to do: " + strings.Join(overrideVerbNames(), ", "))}
			}
			i := slices.IndexFunc(overrideVerbs, func(v overrideVerb) bool { return v.name == args[0] })
			if i < 0 {
				err := fmt.Errorf("%q: must be one of %s", args[0], strings.Join(overrideVerbNames(), ", "))
				return command.UsageError{Err: err}
			}
			verb := overrideVerbs[i]
			if err := verb.checkFlags(f); err != nil {
				return err
			}
			f.Visit(func(given *flag.Flag) { o.policyGiven = o.policyGiven || given.Name == "policy" })
			return verb.run(o, ctx, args[1:], s)
		}
	},
}

// overridesPath is the path of the overrides at the admin plane.
const overridesPath = "/v1/overrides/"

// overrideFlags are the flags of every verb of override.
type overrideFlags struct {
	*bucketFlags
	policyGiven   bool
	limits        []overridejson.Limit
	exempt, block bool
	expires, note string
}

// overrideVerb is what the command does, with the flags that it has besides -addr and -json.
type overrideVerb struct {
	name, flags string
	run         func(o *overrideFlags, ctx context.Context, args []string, s command.Streams) error
}

var overrideVerbs = []overrideVerb{
	{"set", "policy source limit exempt block expires note", (*overrideFlags).set},
	{"get", "policy source", (*overrideFlags).get},
	{"delete", "policy source", (*overrideFlags).end},
	{"list", "policy", (*overrideFlags).list},
	{"apply", "", (*overrideFlags).apply},
	{"export", "policy", (*overrideFlags).export},
}

func overrideVerbNames() (names []string) {
	for i := range overrideVerbs {
		names = append(names, overrideVerbs[i].name)
	}
	return names
}

// checkFlags refuses flags that the verb does not have.
func (v *overrideVerb) checkFlags(f *flag.FlagSet) (err error) {
	has := append(strings.Fields(v.flags), "addr", "json")
	f.Visit(func(given *flag.Flag) {
		if !slices.Contains(has, given.Name) {
			err = command.UsageError{Err: fmt.Errorf("%s has no flag -%s", v.name, given.Name)}
		}
	})
	return err
}

func (o *overrideFlags) addLimit(text string) error {
	spec, err := policyfile.ParseLimit(text)
	if err != nil {
		return err
	}
	o.limits = append(o.limits, overridejson.LimitOf(&spec))
	return nil
}

// client returns the path of the override of the client that args name.
func (o *overrideFlags) client(args []string) (c *adminClient, path string, err error) {
	c, path, err = o.parse(args)
	return c, strings.Replace(path, bucketsPath, overridesPath, 1), err
}

// explained returns the error of a request about a policy. If there is no policy of that name, it names those that there are.
func (o *overrideFlags) explained(ctx context.Context, c *adminClient, err error) error {
	if refusedWith(err, http.StatusNotFound) {
		return cmp.Or(c.checkPolicy(ctx, o.policy, true), err)
	}
	return err
}

func (o *overrideFlags) set(ctx context.Context, args []string, s command.Streams) error {
	c, path, err := o.client(args)
	if err != nil {
		return err
	}
	wanted, err := o.wanted(time.Now())
	if err != nil {
		return err
	}
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	answer, err := c.send(ctx, http.MethodPut, path, body)
	if err != nil {
		return o.explained(ctx, c, err)
	}
	if client := args[0]; strings.Contains(client, "*") {
		_, _ = fmt.Fprintln(s.Err, "The * of the client is no pattern: this is one client. Patterns belong in the policy file.")
	}
	return o.show(s, c, answer, "Set: ")
}

// wanted is the override that the flags describe.
func (o *overrideFlags) wanted(now time.Time) (w overridejson.Override, err error) {
	kinds := 0
	for _, is := range []bool{len(o.limits) > 0, o.exempt, o.block} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return w, command.UsageError{Err: errors.New("say -limit, or -exempt, or -block, and only one of them")}
	}
	w = overridejson.Override{Limits: o.limits, Exempt: o.exempt, Block: o.block, Note: o.note}
	if o.expires == "" {
		return w, nil
	}
	at, err := time.Parse(time.RFC3339Nano, o.expires)
	if err != nil {
		after, wrong := time.ParseDuration(o.expires)
		if wrong != nil || after < time.Second {
			return w, command.UsageError{Err: fmt.Errorf("-expires: %q: must be a duration of at least 1s, as in 24h, or a time, as in 2027-01-31T00:00:00Z", o.expires)}
		}
		at = now.Add(after).Truncate(time.Second)
	}
	w.ExpiresAt = at.UTC().Format(time.RFC3339Nano)
	return w, nil
}

func (o *overrideFlags) get(ctx context.Context, args []string, s command.Streams) error {
	c, path, err := o.client(args)
	if err != nil {
		return err
	}
	answer, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return o.explained(ctx, c, err)
	}
	return o.show(s, c, answer, "")
}

// show prints an answer that is an override.
func (o *overrideFlags) show(s command.Streams, c *adminClient, answer []byte, before string) error {
	var found struct {
		overridejson.Override
		Local bool `json:"local"`
	}
	if err := json.Unmarshal(answer, &found); err != nil {
		return c.otherVersion(err)
	}
	o.print(s.Out, answer, func() {
		_, _ = fmt.Fprintf(s.Out, "%s%s under %s: %s\n", before, command.Printable(found.Key), o.policy, overrideText(&found.Override))
		if found.Local {
			_, _ = fmt.Fprintln(s.Out, "In this process's memory: other processes do not have it, and it ends with this one.")
		}
	})
	return nil
}

func (o *overrideFlags) end(ctx context.Context, args []string, s command.Streams) error {
	c, path, err := o.client(args)
	if err != nil {
		return err
	}
	if _, err = c.ask(ctx, http.MethodDelete, path); err != nil {
		return o.explained(ctx, c, err)
	}
	o.print(s.Out, []byte(`{"ended":true}`), func() {
		_, _ = fmt.Fprintf(s.Out, "Ended: %s has the limits of %s again.\n", clientName(args[0], c.hasSecretKeys(ctx)), o.policy)
	})
	return nil
}

func (o *overrideFlags) list(ctx context.Context, args []string, s command.Streams) error {
	c, err := o.clientWithout(args)
	if err != nil {
		return err
	}
	head, of := "CLIENT\tOVERRIDE\tENDS\tNOTE\tSET", " of "+o.policy
	if !o.policyGiven {
		head, of = "POLICY\t"+head, ""
	}
	table := command.NewTable(s.Out, head)
	n := 0
	err = o.each(ctx, c, func(found *overrideLine) error {
		n++
		if o.json {
			return found.write(s.Out)
		}
		return o.row(table, found)
	})
	switch {
	case err != nil:
		return err
	case o.json:
	case n == 0:
		_, _ = fmt.Fprintf(s.Out, "No client%s has an override.\n", of)
	default:
		_ = table.Flush()
	}
	return nil
}

// row writes an override into the table of list.
func (o *overrideFlags) row(table io.Writer, found *overrideLine) error {
	var says overridejson.Override
	if err := json.Unmarshal(found.Says, &says); err != nil {
		return err
	}
	name := command.Printable(found.Key)
	if found.Source != "" {
		name += " (by " + found.Source + ")"
	}
	if !o.policyGiven {
		name = found.Policy + "\t" + name
	}
	rule := ruleText(&says)
	if found.Unfit != "" {
		rule += " (ignored: " + command.Escaped(found.Unfit) + ")"
	}
	_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", name, rule, cmp.Or(says.ExpiresAt, "-"), cmp.Or(command.Printable(says.Note), "-"), found.SetAt)
	return err
}

// clientWithout returns a client of the admin plane for a verb that takes no arguments.
func (o *overrideFlags) clientWithout(args []string) (*adminClient, error) {
	if err := command.NoArguments(args); err != nil {
		return nil, err
	}
	return newAdminClient(o.addr)
}

// pageOfOverrides is how many overrides are asked for at once.
const pageOfOverrides = "1000"

// eachOverride calls f with each override under a policy, by their clients' keys.
func (c *adminClient) eachOverride(ctx context.Context, policyName string, f func(*overrideLine) error) error {
	for after := ""; ; {
		path := overridesPath + url.PathEscape(policyName) + "?limit=" + pageOfOverrides + "&after=" + url.QueryEscape(after)
		body, err := c.ask(ctx, http.MethodGet, path)
		if err != nil {
			return err
		}
		var page struct {
			Overrides []overrideLine `json:"overrides"`
			Next      string         `json:"next"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return c.otherVersion(err)
		}
		for i := range page.Overrides {
			page.Overrides[i].Policy = policyName
			if err := f(&page.Overrides[i]); err != nil {
				return err
			}
		}
		switch page.Next {
		case "":
			return nil
		case after:
			return fmt.Errorf("%s%s: the next page is this page again", c.base, path)
		}
		after = page.Next
	}
}

// overrideText describes an override in one line.
func overrideText(o *overridejson.Override) string {
	text := ruleText(o)
	if o.ExpiresAt != "" {
		text += "; until " + o.ExpiresAt
	}
	if o.Note != "" {
		text += "; note: " + command.Escaped(o.Note)
	}
	if o.Unfit != "" {
		text += "; ignored: " + command.Escaped(o.Unfit)
	}
	return text
}

// ruleText describes what an override gives its client.
func ruleText(o *overridejson.Override) string {
	switch {
	case o.Exempt:
		return "exempt"
	case o.Block:
		return "blocked"
	}
	limits := make([]string, len(o.Limits))
	for i := range o.Limits {
		limits[i] = limitText(&o.Limits[i])
	}
	return strings.Join(limits, "; ")
}

// limitText writes what a limit of an override says: burst: rate 50/s, capacity 100.
func limitText(l *overridejson.Limit) string {
	var parts []string
	add := func(name, value string) {
		if value != "" && value != "0" {
			parts = append(parts, name+" "+value)
		}
	}
	add("rate", l.Rate)
	add("capacity", fmt.Sprint(int64(l.Capacity)))
	add("quota", l.Quota)
	add("zone", l.Zone)
	add("anchor", l.Anchor)
	add("concurrent", fmt.Sprint(int64(l.Concurrent)))
	add("lease", l.Lease)
	add("cost", fmt.Sprint(int64(l.Cost)))
	return l.Name + ": " + strings.Join(parts, ", ")
}
