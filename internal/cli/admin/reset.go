package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// Reset makes the buckets of one client full, or ends its permits.
var Reset = command.Command{
	Name: "reset", Args: "[-policy NAME] CLIENT", Purpose: "give one client all of its limits back in a running service",
	Usage: "[-policy NAME] [-source KEY] [-permits] [-yes] CLIENT",
	Help: `Shows the limits of one client, fills its buckets and makes its quotas unused, after asking. Where there is no terminal
to ask at, -yes must be given. What the store holds in their place, and cannot be read, is removed.

A reset ends no permit. -permits ends those that the client holds, and leaves its buckets and quotas as they are. Requests that
hold one go on, while others may take its place; what they took stays spent.
` + sourceHelp + adminHelp,
	Define: func(f *flag.FlagSet) command.Action {
		yes := f.Bool("yes", false, "do not ask")
		permits := f.Bool("permits", false, "end the client's permits, instead of resetting its limits")
		flags := newBucketFlags(f)
		return func(ctx context.Context, args []string, s command.Streams) error {
			c, path, err := flags.parse(args)
			if err != nil {
				return err
			}
			target, question, declined := path, "Reset these limits?", "not reset"
			if *permits {
				target, question, declined = strings.Replace(path, bucketsPath, permitsPath, 1), "End these permits?", "not ended"
			}
			if !*yes && !command.IsTerminal(s.In) {
				return command.UsageError{Err: errors.New("there is no terminal to ask at: say -yes")}
			}
			var report bucketReport
			_, err = flags.get(ctx, c, path, &report)
			unreadable := refusedWith(err, http.StatusServiceUnavailable) // a reset may repair that
			if err != nil && !unreadable {
				return err
			}
			if !*yes && !agreed(s, &report, err, question) {
				return errors.New(declined)
			}
			body, err := c.ask(ctx, http.MethodDelete, target)
			if err != nil {
				return err
			}
			done := "Reset: nothing is spent of the limits of"
			if !*permits {
				body = []byte(`{"reset":true}`)
			} else if done, err = endedText(body); err != nil {
				return fmt.Errorf("%s: %w", c.base, err)
			}
			flags.print(s.Out, body, func() {
				if unreadable {
					_, _ = fmt.Fprintf(s.Out, "%s %s under %s.\n", done, clientName(args[0], c.hasSecretKeys(ctx)), flags.policy)
					return
				}
				_, _ = fmt.Fprintf(s.Out, "%s %s under %s, by %s.\n", done, command.Printable(report.Key), flags.policy, report.Source)
				report.printIfUnspent(s.Out)
			})
			return nil
		}
	},
}

// endedText says how many permits ended, by the answer of the admin plane.
func endedText(body []byte) (string, error) {
	var answer struct{ Ended int }
	err := json.Unmarshal(body, &answer)
	return "Ended " + command.Plural(answer.Ended, "permit", "permits") + " of", err
}

// agreed shows the limits, or why they cannot be shown, and asks a question.
func agreed(s command.Streams, report *bucketReport, unreadable error, question string) bool {
	if unreadable != nil {
		_, _ = fmt.Fprintf(s.Err, "The limits cannot be shown: %v\n", unreadable)
	} else {
		report.print(s.Err)
	}
	return confirmed(s.In, s.Err, "\n"+question+" [y/N] ")
}

// confirmed asks a question, and reports whether the answer is y or yes.
func confirmed(in io.Reader, out io.Writer, question string) bool {
	_, _ = io.WriteString(out, question)
	line, _ := bufio.NewReader(in).ReadString('\n') // at the end of the input, the line is empty
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}
