// The operations of contract 1.1.0 with openapi-generator's Go client.
package main

import (
	"time"

	tasks "scenario/generated"
)

func main() {
	client := newClient()
	api, lists := client.TasksAPI, client.ListsAPI

	list, response, err := lists.CreateList(ctx, user).
		TaskListCreate(*tasks.NewTaskListCreate("Groceries")).Execute()
	check(err)
	step("list", seen{"status": response.StatusCode, "name": list.Name})

	clock, zone := "17:30", "Europe/Berlin"
	due := tasks.NewDueInput("2026-11-24", *tasks.NewNullableString(&clock), *tasks.NewNullableString(&zone))
	draft := tasks.NewTaskCreate("Milk")
	draft.SetListId(list.Id)
	draft.SetPriority(tasks.PRIORITY_HIGH)
	draft.SetDue(*due)
	draft.SetLabels([]string{"shop", "errands"})
	milk, response, err := api.CreateTask(ctx, user).TaskCreate(*draft).Execute()
	check(err)
	var listId *string = milk.ListId.Get()
	var dueDate string = milk.Due.Get().Date
	var dueAt *time.Time = milk.DueAt.Get()
	var labels []string = milk.Labels
	step("create", seen{
		"status": response.StatusCode, "listed": *listId == list.Id, "priority": milk.Priority,
		"due":    []any{dueDate, milk.Due.Get().Time.Get(), milk.Due.Get().Timezone.Get()},
		"due_at": dueAt.Unix(), "labels": labels,
	})

	draft = tasks.NewTaskCreate("Eggs")
	draft.SetListId(list.Id)
	eggs, _, err := api.CreateTask(ctx, user).TaskCreate(*draft).Execute()
	check(err)
	draft = tasks.NewTaskCreate("Oat milk")
	draft.SetParentId(milk.Id)
	oat, response, err := api.CreateTask(ctx, user).TaskCreate(*draft).Execute()
	check(err)
	step("subtask", seen{
		"status": response.StatusCode, "parent": *oat.ParentId.Get() == milk.Id,
		"listed": oat.ListId.Get() != nil, "due": oat.Due.Get(),
	})

	first := tasks.NewTaskMove(*tasks.NewNullableString(nil))
	_, response, err = api.MoveTask(ctx, user, eggs.Id).TaskMove(*first).IfMatch(eggs.Etag).Execute()
	check(err)
	inList := api.ListTasks(ctx, user).ListId(list.Id)
	step("move", seen{
		"status": response.StatusCode,
		"titles": titlesOf(inList.Sort(tasks.TASKSORT_POSITION).Order(tasks.SORTORDER_ASC)),
	})
	step("filter", seen{
		"titles": titlesOf(inList.Labels("errands").Priority("high,urgent").DueBefore("2026-11-25")),
	})

	count, _, err := api.CountTasks(ctx, user).ListId(list.Id).Execute()
	check(err)
	step("count", seen{"count": count.Count, "capped": count.IsCapped})

	used, _, err := api.ListLabels(ctx, user).Execute()
	check(err)
	counts := [][]any{}
	for _, each := range used.Items {
		counts = append(counts, []any{each.Label, each.OpenTasks})
	}
	step("labels", seen{"labels": counts, "capped": used.IsCapped})

	draft = tasks.NewTaskCreate("Lost")
	draft.SetListId(absent)
	_, _, err = api.CreateTask(ctx, user).TaskCreate(*draft).Execute()
	problem := problemOf(err)
	step("reference", seen{
		"status": problem.Status, "type": problem.Type, "pointer": problem.Errors[0].Pointer.Get(),
	})

	_, err = lists.DeleteList(ctx, user, list.Id).Execute()
	problem = problemOf(err)
	step("not empty", seen{"status": problem.Status, "type": problem.Type})

	patch := tasks.NewTaskPatch()
	patch.SetDueNil()
	patch.SetLabels([]string{})
	after, response, err := api.UpdateTask(ctx, user, milk.Id).TaskPatch(*patch).Execute()
	check(err)
	step("clear", seen{
		"status": response.StatusCode, "priority": after.Priority, "due": after.Due.Get(),
		"labels": after.Labels,
	})
}

func titlesOf(list tasks.ApiListTasksRequest) (titles []string) {
	page, _, err := list.Execute()
	check(err)
	for _, each := range page.Items {
		titles = append(titles, each.Title)
	}
	return titles
}
